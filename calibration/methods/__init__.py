"""How a range is chosen from a histogram: pure functions (histogram) -> amax."""

from collections.abc import Callable

from calibration.histogram import Histogram
from calibration.methods.entropy import entropy
from calibration.methods.minmax import minmax
from calibration.methods.mse import mse
from calibration.methods.percentile import percentile

Method = Callable[[Histogram], float]

METHODS: dict[str, Method] = {"entropy": entropy, "percentile": percentile, "mse": mse, "minmax": minmax}
"""Every method by the name that the command line and the table use; the first is the default."""

DEFAULT_METHOD = next(iter(METHODS))
