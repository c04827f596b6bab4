import json

import pytest

from toolkit.comparison.accuracy.shares import Share
from toolkit.comparison.figures import milliseconds


@pytest.mark.parametrize(("count", "total", "low", "high"), [(0, 10, 0, 0.2775), (358, 360, 0.9800, 0.9985)])
def test_a_share_carries_its_wilson_interval(count, total, low, high):
    """Bounds from solving |p - p0| = z sqrt(p0 (1 - p0) / n) for p0 by hand."""
    share = Share(count, total)
    for bound in share.interval:
        assert abs(share.rate - bound) == pytest.approx(1.959964 * (bound * (1 - bound) / total) ** 0.5, abs=1e-6)
    assert share.interval == pytest.approx((low, high), abs=6e-5)
    assert share.to_json()["rate"] == count / total
    assert Share.from_json(json.loads(json.dumps(share.to_json()))) == share


def test_times_of_fast_engines_keep_their_microseconds():
    shown = [milliseconds(seconds) for seconds in (0.000043, 0.00043, 0.00434, 0.0434, 0.434)]
    assert shown == ["0.043", "0.43", "4.34", "43.4", "434"]
