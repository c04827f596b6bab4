"""Is a layer's own error over what its types must cost? The rules, for one layer of the second graph.

1. Its own error is of its result, computed from the first graph's values. Its floor is the error of the first graph's
   layer in the second's types (:mod:`calibration.bisection.probe`), and never less than two units in the last place.
2. It is over the floor where its own error has :data:`TIMES` the floor's power.
3. A gain hides in rounding: 5 % is as much as 8-bit rounding may cost. But rounding averages out and a gain doesn't.
   So a layer is over the floor too where its result is more than :data:`GAIN` larger or smaller than that of the
   first graph's layer with the same types, scales and ranges, by least squares over all values, or one channel's is;
   or where its channels are off by a constant that the types don't explain, as a corrected bias never makes them.
   The same gain of its weights counts too: rounding may leave nothing of a result.
4. Ranges are at fault where the first graph's layer with the second's ranges is over the floor as well. Clipping is a
   choice, and often a good one: that counts where it leaves less than
   :data:`~calibration.equalise.NEEDED_DB`.
5. Another backend may sum in another order, by Winograd's transforms and in narrow accumulators: there a layer's
   floor is never less than what is assumed for its type.
6. Where the first graph's constants can't be told in the second's types, no floor can be measured. One is assumed for
   the type, well above what rounding costs, and the gain is that against the first graph itself.
"""

from dataclasses import dataclass

import numpy as np

from calibration.bisection.constants import Gain
from calibration.bisection.moments import Moments, ratio_db
from calibration.equalise import NEEDED_DB

TIMES = 4.0
"""How many times the floor's power an own error may have: 6 dB."""

GAIN = 0.01
"""A gain beyond this is none of rounding's: weights that are rounded otherwise move it by a thousandth at most."""

CHANNEL_GAIN = 0.03
"""The same for one channel, of which there are fewer values and weights."""

_OFFSET = 0.03
"""A channel's constant error that is let pass, as a share of its deviation: 30 dB below it."""

_SIGMAS = 4.0
"""How many standard errors a channel's gain must be away."""

_MOST = 0.5
"""The share of an error's power from which on it is told by its cause."""

_UNITS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_LEAST = 2.0
"""Units in the last place, relative to a layer's values, that any other order of summation may take."""

_ASSUMED = {"float32": 2.0**-16, "float16": 2.0**-8, "bfloat16": 2.0**-5}
"""The relative error that is assumed where no floor can be measured, and let pass in any backend, by type."""

_ASSUMED_8_BIT = 10.0**-0.75
"""The same for 8 bits: 15 dB, where ordinary layers have 25 to 40."""


@dataclass(frozen=True, eq=False)
class Measured:
    """The sums of one layer.

    Attributes:
        own: its own error against the first graph.
        ideal: of the first graph's layer in its types and ranges, against the first graph.
        floor: the same without limits to the ranges.
        beside: its own result against the ideal one.
        dtype: the type of what it makes.
        quantised: whether it reads 8-bit values.
        exact: whether it was computed with the first graph's constants.
        weights: what its weights are multiplied by; None where they aren't known.
        elsewhere: whether another backend than ONNX Runtime as written made it.
    """

    own: Moments
    ideal: Moments
    floor: Moments
    beside: Moments
    dtype: str
    quantised: bool
    exact: bool
    weights: Gain | None = None
    elsewhere: bool = False

    def allowed(self) -> float:
        """The power that its floor has."""
        assumed = _ASSUMED.get(self.dtype, 2.0**-16)
        if self.exact:
            least = assumed if self.elsewhere else _LEAST * _UNITS.get(self.dtype, 2.0**-23)
            return max(self.floor.noise, least**2 * self.own.signal)
        share = _ASSUMED_8_BIT if self.quantised else assumed
        return share**2 * self.own.signal

    def gain(self) -> float:
        """What its result is multiplied by, beside what its types do."""
        return self.beside.gain() if self.exact else self.own.gain()

    def told_gain(self) -> float:
        """That of its weights, where it is that, else that of its result."""
        return self.weights.factor if self.weights is not None and self._scaled_weights() else self.gain()

    def judge(self) -> tuple[bool, str]:  # noqa: PLR0911 - one return a rule
        """Whether it is over the floor, and why; or what else there is to know."""
        if not self.own.finite:
            return True, "its result holds NaN or infinity"
        if self.weights is not None and self._scaled_weights():
            return True, f"its weights are multiplied by {self.weights.factor:.3f}"
        limit = TIMES * self.allowed()
        loud = self.own.noise > limit
        ranges = loud and self.exact and self.ideal.noise > limit
        gain = self.gain()
        scaled = abs(gain - 1) > (GAIN if self.exact else CHANNEL_GAIN) and (self.quantised or loud)
        channels = self._channels()
        if scaled and not channels and (self._explained() or not loud or ranges):
            return True, f"its result is multiplied by {gain:.3f}"
        if channels and (self.quantised or loud):
            return True, channels
        if scaled or (loud and not ranges):
            if self._explained():
                return True, f"its result is multiplied by {gain:.5f}"
            return (
                True,
                f"it computes something else: {ratio_db(self.own.noise, self.allowed()):.0f} dB over the floor",
            )
        if self.quantised and self.own.offset() > _OFFSET + 2 * (self.ideal.offset() if self.exact else 0):
            return True, f"its channels are off by a constant, {self.own.offset():.2g} of their deviation"
        if ranges and self.ideal.noise > TIMES * self.floor.noise:
            floor = self.floor.decibels()
            reason = f"its range clips, or is too wide: rounding alone leaves {floor:.1f} dB"
            return self.ideal.decibels() < NEEDED_DB, reason
        return False, ""

    def _scaled_weights(self) -> bool:
        """Whether one factor for all of its weights is most of what is wrong with them."""
        found = self.weights
        return found is not None and abs(found.factor - 1) > GAIN and found.factor > 0 and found.explains > _MOST

    def _explained(self) -> bool:
        """Whether one gain is most of what it has beside what its types do."""
        return self.gain() > _MOST and (self.beside if self.exact else self.own).gain_explains() > _MOST

    def _channels(self) -> str:
        """What some channels are multiplied by, where the others aren't."""
        if not self.exact:
            return ""
        gains, errors = self.beside.channel_gains()
        away = np.abs(gains) > CHANNEL_GAIN + _SIGMAS * errors
        if not away.any() or 2 * away.sum() > len(away):
            return ""
        worst = 1 + gains[away][np.abs(gains[away]).argmax()]
        count = int(away.sum())
        return f"{count} of its channels {'is' if count == 1 else 'are'} multiplied by up to {worst:.3f}"
