"""Ends the requests whose time is over: one look at all of them, many times a second.

A timer for each step of each request would cost more than the steps.
"""

import asyncio
import time

from gateway.body import ClientGone
from gateway.errors import BodyTooSlow, DeadlineExceeded
from gateway.exchange import Exchange
from monitors.metrics import Metrics

LOOK_EVERY_S = 0.05
GRACE_S = 1.0
"""After the deadline, at which the engine's answer is given up: so long a client may take over the error."""


class Overdue:
    """Looks at the requests that are being served.

    Args:
        stall_s: a client that takes nothing for so long is gone: it must not hold an engine's place.
        metrics: where it is told how many requests are being served.
    """

    def __init__(self, stall_s: float, metrics: Metrics) -> None:
        self._stall_s = stall_s
        self._in_flight = metrics.in_flight
        self._served: set[Exchange] = set()
        self.add = self._served.add
        self.discard = self._served.discard

    async def follow(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Interrupt what is overdue at that moment, on `time.monotonic`'s clock."""
        self._in_flight.set(len(self._served))
        for exchange in tuple(self._served):
            if exchange.body_due is not None and now >= exchange.body_due:
                exchange.interrupt(BodyTooSlow("the body did not come in time"))
            elif now >= exchange.deadline + GRACE_S:
                exchange.interrupt(DeadlineExceeded("the request's deadline passed"))
            elif exchange.sending_since is not None and now >= exchange.sending_since + self._stall_s:
                exchange.interrupt(ClientGone())
