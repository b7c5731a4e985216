"""Turns, medians and ranges."""

import pytest

from benchmarks.speed.rounds import Figure, Figures, difference, ratio, take_turns


async def test_every_other_round_goes_backwards() -> None:
    """So that neither of two things always comes after the other."""
    order: list[str] = []

    async def measure(thing: str) -> Figures:
        order.append(thing)
        return {}

    await take_turns(["A", "B", "C"], measure, rounds=3)
    assert "".join(order) == "ABCCBAABC"


@pytest.mark.parametrize(
    ("found", "kept", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], "AB BA"),
        ([1.0, 99.0, 2.0], [1.0, 2.0], "AB BA BA"),
        ([99.0, 98.0, 97.0, 2.0], [97.0, 2.0], "AB AB AB BA"),
    ],
)
async def test_a_disturbed_round_is_measured_again(found: list[float], kept: list[float], expected: str) -> None:
    """All of it, in the same order, and at most twice: the third one stands, whatever it found."""
    values = iter(found)
    order: list[str] = []

    async def measure(thing: str) -> Figures:
        order.append(thing)
        return {"gap": next(values) if thing == "A" else 0.0}

    first, _ = await take_turns(["A", "B"], measure, rounds=2, is_disturbed=lambda figures: figures[0]["gap"] > 20)
    assert first["gap"].values == tuple(kept)
    assert "".join(order) == expected.replace(" ", "")


async def test_figures_come_in_the_order_of_things_and_of_rounds() -> None:
    """Also of rounds that went backwards."""
    turns = {"A": iter([1.0, 2.0, 3.0]), "B": iter([10.0, 20.0, 30.0])}

    async def measure(thing: str) -> Figures:
        return {"per_s": next(turns[thing])}

    first, second = await take_turns(["A", "B"], measure, rounds=3)
    assert first == {"per_s": Figure((1.0, 2.0, 3.0))}
    assert second == {"per_s": Figure((10.0, 20.0, 30.0))}


def test_a_figure_is_told_with_its_median_and_its_range() -> None:
    """The middle one of three, the mean of the middle two of four."""
    assert Figure((3.0, 1.0, 1200.5)).shown(1) == "3.0 (1.0 to 1,200.5)"
    assert Figure((4.0, 1.0, 2.0, 9.0)).median == 3.0


def test_ratios_and_differences_are_of_the_same_round() -> None:
    """A slow round slows both, and so does not show in them."""
    of, to = Figure((10.0, 1.0, 30.0)), Figure((20.0, 2.0, 40.0))
    assert ratio(of, to).values == (0.5, 0.5, 0.75)
    assert difference(of, to).values == (-10.0, -1.0, -10.0)


def test_figures_of_different_rounds_are_not_compared() -> None:
    """One that was measured less often says nothing of the other's rounds."""
    with pytest.raises(ValueError, match="argument 2 is longer"):
        ratio(Figure((1.0,)), Figure((1.0, 2.0)))
