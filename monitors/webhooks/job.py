"""The job that tells webhooks what is due; one whose receiver is slow holds up no other, nor the loop."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from monitors.watch.work import Workshop
from monitors.webhooks.events import TEST
from monitors.webhooks.holding import release
from monitors.webhooks.hooks import SWITCHED_OFF, Target, find_target, switch_off
from monitors.webhooks.queue import Due, due, give_up, mark_delivered, mark_failed, webhooks_due
from monitors.webhooks.retries import PAUSES_S, next_attempt
from monitors.webhooks.sending import Sender, Tried
from registry.catalog import Catalog
from registry.database import writing

log = logging.getLogger(__name__)

_EVERY_S = 1.0
_AT_ONCE = 4
"""Attempts at one webhook at once."""
_LONGEST_RUN_S = 60.0
"""After this it begins no attempt, so that a run has an end however many fail."""


class WebhookJob:
    """Tells what is due, each webhook at its own pace, and marks each attempt right after it.

    A monitor that dies between an attempt and its mark leaves it due: the next one sends it again, under the same id.

    Args:
        pauses_s: after attempts that failed, seconds.
        new_sender: makes what sends, for one run.
        clock: tells the time.
    """

    name = "webhooks"

    def __init__(
        self,
        workshop: Workshop,
        *,
        pauses_s: Sequence[float] = PAUSES_S,
        new_sender: Callable[[], Sender] = Sender,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.every_s = _EVERY_S
        self._database = workshop.database
        self._metrics = workshop.metrics
        self._pauses_s = pauses_s
        self._new_sender = new_sender
        self._clock = clock

    async def run(self, _catalog: Catalog, now: datetime, /) -> None:
        """Tell all that is due now, and what becomes due meanwhile."""
        await release(self._database, now)
        if await self._due():
            async with self._new_sender() as sender:
                await self._tell_all(sender)

    async def _tell_all(self, sender: Sender) -> None:
        until = time.monotonic() + _LONGEST_RUN_S
        running: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                if time.monotonic() < until:
                    await release(self._database, self._clock())
                    for webhook in await self._due() - running.keys():
                        running[webhook] = asyncio.create_task(self._tell(sender, webhook, until), name=webhook)
                if not running:
                    return
                await asyncio.wait(running.values(), timeout=self.every_s)
                for webhook in [webhook for webhook, task in running.items() if task.done()]:
                    running.pop(webhook).result()
        finally:
            for task in running.values():
                task.cancel()
            await asyncio.gather(*running.values(), return_exceptions=True)

    async def _due(self) -> set[str]:
        async with self._database.connect() as connection:
            return await webhooks_due(connection, self._clock())

    async def _tell(self, sender: Sender, webhook: str, until: float) -> None:
        """Tell one webhook all that is due for it, a few at once."""
        while time.monotonic() < until:
            async with self._database.connect() as connection:
                target = await find_target(connection, webhook, self._clock())
                found = await due(connection, webhook, self._clock(), _AT_ONCE)
            if not found:
                return
            if target is None:
                await self._give_up(webhook)
                return
            async with asyncio.TaskGroup() as attempts:
                for each in found:
                    attempts.create_task(self._attempt(sender, target, each))

    async def _attempt(self, sender: Sender, target: Target, what: Due) -> None:
        tried = await sender.send(target, what, self._clock())
        self._metrics.webhook_attempts.labels(tried.outcome).inc()
        now = self._clock()
        async with writing(self._database) as connection:
            if tried.outcome == "delivered":
                await mark_delivered(connection, what, now)
                return
            next_at = self._next_attempt(what, tried, now)
            if tried.outcome == "gone":  # the webhook before its deliveries, as everybody who changes both
                await switch_off(connection, target.id, now)
            await mark_failed(connection, what, tried.error, next_at)
            if tried.outcome == "gone":
                await give_up(connection, target.id, SWITCHED_OFF)
        if tried.outcome == "gone":
            log.warning("webhook %s is switched off: its receiver answered 410", target.id)
        elif next_at is None:
            log.warning("webhook %s: %s of %s is given up: %s", target.id, what.id, what.event, tried.error)

    def _next_attempt(self, what: Due, tried: Tried, now: datetime) -> datetime | None:
        """A test is made once: who asked for it looks at what came of it."""
        if tried.outcome == "gone" or what.event == TEST:
            return None
        return next_attempt(what.attempts + 1, now, tried.wish_s, self._pauses_s)

    async def _give_up(self, webhook: str) -> None:
        async with writing(self._database) as connection:
            await give_up(connection, webhook, SWITCHED_OFF)
