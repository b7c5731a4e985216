"""Where values stand in plots."""

from itertools import pairwise

import pytest

from monitors.pages.environment import duration
from monitors.pages.scales import Scale, around, between


def test_a_scale_is_a_straight_line_either_way() -> None:
    """SVG counts downwards, so a height is given from its end."""
    scale = Scale(0, 2, 100, 0)
    assert [scale.at(value) for value in (0, 1, 2)] == [100, 50, 0]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 451), (-0.3, 0.2), (3.1, 3.2)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    """From two to six of them, as far apart from each other."""
    ticks = [float(tick["text"]) for tick in Scale(low, high, 0, 100).ticks()]
    assert 2 <= len(ticks) <= 6
    assert all(low <= tick <= high for tick in ticks)
    steps = [after - before for before, after in pairwise(ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps))


def test_values_that_are_all_the_same_have_a_scale_too() -> None:
    """With or without room around them."""
    assert around([2.0, 2.0], 0, 10).at(2.0) == 5.0
    assert between([2.0], 0, 10).at(2.0) == 0.0


def test_times_are_said_as_in_a_sentence() -> None:
    """Minutes where there are any."""
    assert [duration(seconds) for seconds in (0.4, 59.6, 125)] == ["0 s", "1 min 0 s", "2 min 5 s"]
