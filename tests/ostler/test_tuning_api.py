"""The CLI's calls to the tuning API: a job that is asked for once, however often the way there breaks."""

from typing import Any

import pytest

from ostler import tuning
from ostler.client import CommandFailed


class Way:
    """A client whose way to the gateway breaks as often as it is told."""

    url = "http://gateway"

    def __init__(self, *failures: CommandFailed) -> None:
        self._failures = list(failures)
        self.keys: list[str] = []

    def call(self, _method: str, path: str, **arguments: Any) -> Any:
        """Take the order, or fail."""
        assert path == "http://gateway/v1/fine_tuning/jobs"
        self.keys.append(arguments["headers"]["idempotency-key"])
        if self._failures:
            raise self._failures.pop(0)
        return {"id": "ftjob-1"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_PAUSE_S", 0.0)


def test_what_breaks_off_is_sent_again_with_the_same_key() -> None:
    """So the gateway makes one job of it; another order has another key."""
    gone = CommandFailed("gone", 3)
    way: Any = Way(gone, gone)
    assert tuning.create(way, {})["id"] == "ftjob-1"
    assert len(way.keys) == 3
    assert len(set(way.keys)) == 1
    tuning.create(way, {})
    assert len(set(way.keys)) == 2


def test_a_refusal_is_not_sent_again() -> None:
    """Nor is anything for ever."""
    refused: Any = Way(CommandFailed("no", status=400))
    with pytest.raises(CommandFailed, match="no"):
        tuning.create(refused, {})
    assert len(refused.keys) == 1
    gone: Any = Way(*[CommandFailed("gone", 3)] * 9)
    with pytest.raises(CommandFailed, match="gone"):
        tuning.create(gone, {})
    assert len(gone.keys) == 3
