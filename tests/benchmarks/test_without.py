"""Parts of the gateway that are switched off."""

import pytest

from benchmarks.speed import without
from benchmarks.speed.recording import new_record
from gateway.limits.budgets import Budgets
from monitors.log.recorder import Recorder
from monitors.metrics import Metrics
from registry.database import connect


async def _nothing_spent() -> dict[str, float]:
    return {}


@pytest.fixture(autouse=True)
def _put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes are those of all tests."""
    for kind, methods in without.HEARS.values():
        for method in methods:
            if hasattr(kind, method):
                monkeypatch.setattr(kind, method, getattr(kind, method))


def test_a_part_that_is_off_takes_nothing_in() -> None:
    """However the gateway tells it of a request, and the others still do."""
    without.switch_off(["budgets", "recorder"])
    budgets, metrics = Budgets(_nothing_spent), Metrics()
    recorder = Recorder(connect("sqlite://"), metrics, size=10)
    record = new_record(1, captured=False)
    for hook in (budgets, recorder, metrics):
        hook(record)
    budgets.add("key_1", 0.5)
    assert budgets.spent("key_1") == 0.0
    assert recorder._held == 0
    assert b"ostler_requests_total{" in metrics.exposition()


def test_a_part_that_is_not_there_is_told() -> None:
    """With those that are."""
    with pytest.raises(SystemExit, match="there is no part 'usage'; there are: recorder, metrics, budgets"):
        without.switch_off(["usage"])
