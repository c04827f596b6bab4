"""Where two graphs of one network part: layer by layer, against what the second one's own types must cost."""

from calibration.bisection.bisect import bisect as bisect
from calibration.bisection.record import Bisection as Bisection
