"""Calls to the gateway that wait for one that is away: engines load for minutes, and a gateway may be restarted."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from monitors.watch.client import GatewayRefused
from tuner.errors import JobFailed

T = TypeVar("T")

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_TOO_MANY = 429


async def patiently(call: Callable[[], Awaitable[T]], wait_s: float) -> T:
    """The result of a call, tried again with growing pauses as long as nobody answers, or only says to come later.

    Args:
        call: makes the call.
        wait_s: for how long, in all.

    Raises:
        JobFailed: nobody answered.
        GatewayRefused: an answer that waiting does not change.
    """
    until, pause = time.monotonic() + wait_s, _FIRST_PAUSE_S
    while True:
        try:
            return await call()
        except GatewayRefused as refused:
            if not _may_pass(refused):
                raise
            if time.monotonic() + pause > until:
                why = f"the engine did not answer for {wait_s:.0f} s ({refused}); see to it, and ask for the job again"
                raise JobFailed("evaluation_failed", why) from refused
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def _may_pass(refused: GatewayRefused) -> bool:
    return refused.status is None or refused.status == _TOO_MANY or refused.status >= 500
