"""The rules behind "auto"."""

import pytest

from tuner.training import auto


@pytest.mark.parametrize(("hidden", "low", "high"), [(4096, 2e-4, 2e-4), (8192, 1.1e-4, 1.3e-4), (192, 2e-3, 2.4e-3)])
def test_learning_rate_is_qloras_for_7b_and_falls_with_the_width(hidden: int, low: float, high: float) -> None:
    """A 7B has 2e-4, a 65B (hidden 8192) about half of it, and the demo's tiny model about ten times that."""
    assert low <= auto.learning_rate(hidden) <= high


def test_preferences_take_a_fortieth_of_the_rate() -> None:
    """For a 7B that is Zephyr's 5e-6."""
    assert auto.preference_learning_rate(4096) == pytest.approx(5e-6)


@pytest.mark.parametrize("rank", [1, 8, 16, 64])
def test_updates_are_scaled_by_two_whatever_the_rank(rank: int) -> None:
    """Alpha over r is 2, and with rsLoRA alpha over its root."""
    assert auto.alpha(rank, rslora=False) / rank == 2
    assert auto.alpha(rank, rslora=True) / rank**0.5 == pytest.approx(2)


@pytest.mark.parametrize(("rows", "epochs"), [(1, 25), (4, 25), (10, 10), (33, 4), (34, 3), (100_000, 3)])
def test_few_rows_are_seen_more_often(rows: int, epochs: int) -> None:
    """At least 100 examples are seen, in at most 25 epochs."""
    assert auto.epochs(rows) == epochs


@pytest.mark.parametrize(("rows", "batch"), [(1, 1), (39, 1), (40, 2), (319, 8), (320, 16), (100_000, 16)])
def test_a_batch_leaves_twenty_steps_in_an_epoch(rows: int, batch: int) -> None:
    """Small sets have smaller batches, all powers of two."""
    assert auto.batch_size(rows) == batch


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (2, 1), (30, 1), (1000, 30), (100_000, 100)])
def test_warmup_is_three_percent_within_bounds(steps: int, warmup: int) -> None:
    """At least one step, at most a hundred, and never all: the rate of a single step would be 0."""
    assert auto.warmup_steps(steps) == warmup
