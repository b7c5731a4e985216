"""When what did not arrive is tried again."""

from datetime import UTC, datetime, timedelta

import pytest

from monitors.webhooks.retries import PAUSES_S, next_attempt, wished_pause

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def test_pauses_grow_and_end() -> None:
    """Ten attempts over more than three days; each pause is at most a fifth longer than it is said to be."""
    assert len(PAUSES_S) == 9
    assert list(PAUSES_S) == sorted(PAUSES_S)
    assert sum(PAUSES_S) > 3 * 86_400
    for failed, pause in enumerate(PAUSES_S, start=1):
        at = next_attempt(failed, NOW)
        assert at is not None
        assert pause <= (at - NOW).total_seconds() <= 1.2 * pause
    assert next_attempt(10, NOW) is None


def test_what_failed_together_does_not_come_together_again() -> None:
    """Pauses differ."""
    assert len({next_attempt(1, NOW) for _ in range(20)}) > 1


def test_a_receiver_may_ask_for_a_longer_pause() -> None:
    """Up to a day, and not for a shorter one, nor for an attempt more."""
    longer = next_attempt(1, NOW, wish_s=900.0)
    assert longer == NOW + timedelta(minutes=15)
    assert next_attempt(1, NOW, wish_s=10**9) == NOW + timedelta(days=1)
    sooner = next_attempt(2, NOW, wish_s=1.0)
    assert sooner is not None
    assert sooner >= NOW + timedelta(minutes=5)
    assert next_attempt(10, NOW, wish_s=5.0) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("Fri, 20 Nov 2026 12:01:00 GMT", 60.0),
        ("Fri, 20 Nov 2026 11:00:00 GMT", 0.0),
        ("Fri, 20 Nov 2026 12:01:00", None),
        ("9" * 400, 9_999_999_999.0),
        ("-5", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_pauses_are_said_in_seconds_or_as_a_moment(header: str | None, seconds: float | None) -> None:
    """What is neither is no wish."""
    assert wished_pause(header, NOW) == seconds
