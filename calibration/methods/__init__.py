"""How a range is chosen from a histogram: pure functions (histogram) -> amax."""

from collections.abc import Callable

from calibration.histogram import Histogram
from calibration.methods.entropy import entropy
from calibration.methods.minmax import minmax
from calibration.methods.mse import mse, mse_fp8
from calibration.methods.percentile import percentile
from engines.errors import InputError

Method = Callable[[Histogram], float]

METHODS: dict[str, Method] = {"entropy": entropy, "percentile": percentile, "mse": mse, "minmax": minmax}
"""Every method of INT8 by the name that the command line and the table use; the first is the default."""

FP8_METHODS: dict[str, Method] = {"mse": mse_fp8, "percentile": percentile, "minmax": minmax}
"""Those of FP8. Entropy isn't among them: it is defined by merging equal bins into 128 equal levels, and FP8 has
eight levels an octave; a range that clips buys no resolution below it, so there is nothing to weigh."""

_BY_PRECISION = {"int8": METHODS, "fp8": FP8_METHODS}

DEFAULT_METHOD = next(iter(METHODS))


def methods_for(precision: str) -> dict[str, Method]:
    """The methods that a precision has, by name; the first is its default.

    Args:
        precision: "int8" or "fp8".
    """
    return dict(_BY_PRECISION[precision])


def default_method(precision: str) -> str:
    """The name of the method that is taken unless another is asked for."""
    return next(iter(_BY_PRECISION[precision]))


def find_method(name: str, precision: str) -> Method:
    """A method by its name.

    Raises:
        InputError: the precision has none of that name; it says which it has.
    """
    methods = _BY_PRECISION[precision]
    if name not in methods:
        known = "isn't defined for FP8's uneven levels" if name in METHODS else "is unknown"
        raise InputError(f"the method '{name}' {known}", f"methods of {precision} are {', '.join(methods)}")
    return methods[name]
