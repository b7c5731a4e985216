"""Waiting for a gateway that is away."""

import pytest

from monitors.watch.client import GatewayRefused
from tuner.errors import EngineAway
from tuner.patience import patiently, pauses


class _Gateway:
    """Refuses by a list of statuses, then answers."""

    def __init__(self, *statuses: int | None) -> None:
        self._statuses = list(statuses)
        self.calls = 0

    async def ask(self) -> str:
        self.calls += 1
        if self._statuses:
            raise GatewayRefused("/v1/models did not answer", self._statuses.pop(0))
        return "an answer"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.patience._FIRST_PAUSE_S", 0.001)


async def test_a_gateway_that_comes_back_is_waited_for() -> None:
    """Nobody there, too many requests and a fault of the server are reasons to come again."""
    gateway = _Gateway(None, 429, 503, 500)
    assert await patiently(gateway.ask, 5) == "an answer"
    assert gateway.calls == 5


async def test_a_gateway_that_stays_away_is_not_waited_for_for_ever() -> None:
    """Patience ends, and says that it was the engine."""
    with pytest.raises(EngineAway, match="did not answer for 0 s"):
        await patiently(_Gateway(*[None] * 1000).ask, 0.02)


@pytest.mark.parametrize("wait_s", [0.0005, 1.0, 900.0])
def test_pauses_are_as_long_as_the_wait(wait_s: float) -> None:
    """They grow, up to half a minute, and an engine that comes back in time is seen within that."""
    found = list(pauses(wait_s))
    assert sum(found) == pytest.approx(wait_s)
    assert max(found) <= 30
    assert found[:-1] == sorted(found[:-1])


async def test_a_refusal_is_not_waited_for() -> None:
    """What waiting does not change comes through at once."""
    gateway = _Gateway(404)
    with pytest.raises(GatewayRefused):
        await patiently(gateway.ask, 5)
    assert gateway.calls == 1
