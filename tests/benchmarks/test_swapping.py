"""What clients see of flips, from the times of both."""

import pytest

from benchmarks.speed.swapping import Span, seen_by_clients, total

EXPOSED = """\
# TYPE ostler_deployment_change_seconds histogram
ostler_deployment_change_seconds_bucket{action="change",le="+Inf"} 3.0
ostler_deployment_change_seconds_count{action="change"} 3.0
ostler_deployment_change_seconds_sum{action="change"} 0.75
ostler_deployment_change_seconds_sum{action="rollback"} 0.25
"""


def test_requests_under_way_in_a_flip_are_told_apart() -> None:
    """Also those that began before it or ended after it, or both; of each kind of flip by itself."""
    asked = [Span(0.0, 0.5), Span(0.9, 1.1), Span(1.2, 1.3), Span(0.8, 2.2), Span(1.9, 2.4), Span(3.0, 3.3)]
    found = seen_by_clients(asked, {"cold": [Span(1.0, 2.0)], "warm": [Span(3.1, 3.2)]})
    assert (found["requests@cold"], found["requests@warm"], found["requests@none"]) == (4, 1, 1)
    assert found["p50_ms@none"] == pytest.approx(500)
    assert found["p50_ms@warm"] == pytest.approx(300)
    assert found["flip_ms_p50@cold"] == pytest.approx(1000)


def test_the_longest_flip_is_told() -> None:
    """Beside the median."""
    found = seen_by_clients([], {"cold": [Span(0.0, 0.1), Span(1.0, 1.2), Span(2.0, 2.9)]})
    assert found["flip_ms_p50@cold"] == pytest.approx(200)
    assert found["flip_ms_most@cold"] == pytest.approx(900)


def test_the_gateways_own_times_are_read_by_label() -> None:
    """A histogram's sum over all of its labels, or of those that are named."""
    assert total(EXPOSED, "ostler_deployment_change_seconds") == 1.0
    assert total(EXPOSED, "ostler_deployment_change_seconds", action="rollback") == 0.25
    assert total(EXPOSED, "ostler_version_load_seconds") == 0.0
