"""What is a disturbed round of streams."""

import pytest

from benchmarks.speed.streaming import is_disturbed


@pytest.mark.parametrize(("at_most", "expected"), [(128.3, True), (20.1, True), (20.0, False), (float("nan"), False)])
def test_a_late_gap_with_nothing_in_between_disturbs_a_round(at_most: float, expected: bool) -> None:
    """With any number of streams at once; how late the first byte was is not asked."""
    found = {"gap_ms_p99@64": 0.1, "gap_ms_p99@1000": at_most, "gap_ms_p50@64": 30.0, "first_ms_p99@1000": 90.0}
    assert is_disturbed(found) is expected
