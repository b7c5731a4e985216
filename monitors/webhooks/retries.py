"""When what did not arrive is tried again: with pauses that grow, for more than three days in all."""

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

_HOUR = 3600.0
PAUSES_S: tuple[float, ...] = (
    5.0,
    300.0,
    1800.0,
    2 * _HOUR,
    5 * _HOUR,
    10 * _HOUR,
    14 * _HOUR,
    20 * _HOUR,
    24 * _HOUR,
)
"""Seconds after each attempt that failed, as the Standard Webhooks specification recommends; ten attempts in all."""
_JITTER = 0.2
_LONGEST_WISH_S = 24 * _HOUR


def next_attempt(
    failed: int, now: datetime, wish_s: float | None = None, pauses_s: Sequence[float] = PAUSES_S
) -> datetime | None:
    """When it is tried again after so many attempts have failed; None if it is given up.

    A pause is up to a fifth longer than is said, so that what failed together does not come together again, and not
    shorter than what the receiver wished for, up to a day.
    """
    if failed > len(pauses_s):
        return None
    pause = pauses_s[failed - 1] * (1 + _JITTER * random.random())
    return now + timedelta(seconds=max(pause, min(wish_s or 0.0, _LONGEST_WISH_S)))


def wished_pause(retry_after: str | None, now: datetime) -> float | None:
    """Seconds that a ``retry-after`` header asks for, which has seconds or a moment; None if it is neither."""
    if retry_after is None:
        return None
    words = retry_after.strip()
    if words.isascii() and words.isdecimal():
        return float(words[:10])
    try:
        return max(0.0, (parsedate_to_datetime(words) - now).total_seconds())
    except (ValueError, TypeError, OverflowError):  # TypeError: a moment without a zone
        return None
