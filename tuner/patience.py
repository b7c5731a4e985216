"""Calls to the gateway that wait for one that is away: engines load for minutes, and a gateway may be restarted."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from monitors.watch.client import GatewayRefused
from tuner.errors import EngineAway

T = TypeVar("T")

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_TOO_MANY = 429


def pauses(wait_s: float) -> Iterator[float]:
    """Growing pauses between attempts, seconds, which together are as long as is waited."""
    pause, left_s = _FIRST_PAUSE_S, wait_s
    while left_s > 0:
        yield min(pause, left_s)
        left_s -= pause
        pause = min(2 * pause, _LONGEST_PAUSE_S)


async def patiently(call: Callable[[], Awaitable[T]], wait_s: float) -> T:
    """The result of a call, tried again with growing pauses as long as nobody answers, or only says to come later.

    Args:
        call: makes the call.
        wait_s: for how long, in all.

    Raises:
        EngineAway: nobody answered.
        GatewayRefused: an answer that waiting does not change.
    """
    until, left = time.monotonic() + wait_s, pauses(wait_s)
    while True:
        try:
            return await call()
        except GatewayRefused as refused:
            if not _may_pass(refused):
                raise
            pause = next(left, None)
            if pause is None or time.monotonic() >= until:
                raise EngineAway(f"the engine did not answer for {wait_s:.0f} s ({refused})") from refused
        await asyncio.sleep(pause)


def _may_pass(refused: GatewayRefused) -> bool:
    return refused.status is None or refused.status == _TOO_MANY or refused.status >= 500
