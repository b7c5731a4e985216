"""The two acts: the world shifts, and a person forces a bad version into canary.

In the first Ostler sees that quality falls, learns, proves what it learned, and goes live with it; in the second it
takes the bad version back.

Nobody touches the adapter in between: the story sends traffic and looks on, and ends with an error if what should
happen does not.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Protocol

import demo
from demo.story.admin import Admin
from demo.story.errors import StoryFailed
from demo.story.ledger import Ledger
from demo.story.plan import ADAPTER, KEYS, Plan
from demo.story.spoiled import spoiled
from demo.story.summary import Summary, summarize
from demo.story.traffic import Traffic
from demo.story.watching import Watcher

__all__ = ["Onlooker", "Story", "tell"]

_LOOK_EVERY_S = 0.2
_MOST_FAILURES = 20
"""With more than that something is wrong that waiting does not mend."""


class Onlooker(Protocol):
    """Who is shown the story while it goes on."""

    def show(self, story: "Story") -> None:
        """Called about once a second."""
        ...


class Story:
    """A story under way: what it sends, and what it knows.

    Args:
        url: the address of a gateway that serves the demo's adapter, and nothing else to anybody.
        key: an admin key for it.
    """

    def __init__(self, url: str, key: str, plan: Plan, onlooker: Onlooker) -> None:
        self.url = url
        self.plan = plan
        self.ledger = Ledger()
        self.admin = Admin(url, key)
        self.watcher = Watcher(self.admin, datetime.now(UTC))
        self.act = "the scene is set"
        self._began = time.monotonic()
        self._onlooker = onlooker
        self._looking: asyncio.Task[None] | None = None

    async def tell(self) -> Summary:
        """Tell all of it; what came of it.

        Raises:
            StoryFailed: it did not go as it should.
        """
        async with self.admin:
            secrets = await self._set_the_scene()
            async with asyncio.timeout(self.plan.longest_s):
                await self._play(secrets)
            await self.watcher.look()
            self._onlooker.show(self)
            found = await self._found()
        return summarize(self.plan, self.ledger, self.watcher, found)

    async def _play(self, secrets: Mapping[str, str]) -> None:
        self._looking = asyncio.create_task(self.watcher.run(lambda: self._onlooker.show(self)))
        try:
            async with Traffic(self.url, secrets, self.plan, self.ledger, self._began) as traffic:
                await self._before(traffic)
                await self._first_act(traffic)
                await self._second_act(traffic)
        finally:
            self._looking.cancel()
            with suppress(asyncio.CancelledError, StoryFailed):
                await self._looking

    async def _set_the_scene(self) -> dict[str, str]:
        """Say how the adapter is watched and kept, and make a key for each channel of the desk; their secrets."""
        plan, admin = self.plan, self.admin
        await admin.adapter("PATCH", "/monitoring", json=plan.monitoring())
        await admin.adapter("PATCH", "/policy", json=plan.policy())
        shadow = {"shadow": {"version": "base", "share": plan.shadow_share}, "reason": "the base answers a share, too"}
        await admin.adapter("PATCH", "/deployment", json=shadow)
        secrets = {}
        for name in KEYS:
            order = {"name": f"story-{name}", "scopes": ["inference", "feedback"], "adapters": [ADAPTER]}
            secrets[name] = (await admin.call("POST", "/admin/v1/keys", json=order))["secret"]
        return secrets

    async def _before(self, traffic: Traffic) -> None:
        """Traffic as the adapter knows it, until the monitor knows what to expect."""
        self._begin_act("Before: tickets as the adapter was made for")
        traffic.pace = self.plan.before_pace
        await self._until(lambda: len(self.ledger.answers) >= self.plan.before, "the first answers", traffic)
        traffic.pace = self.plan.quiet_pace
        await self._look_for_drift(traffic)
        level = "the monitor to know what level to expect"
        await self._until(lambda: self.watcher.monitored.level is not None, level, traffic)

    async def _first_act(self, traffic: Traffic) -> None:
        """The world shifts."""
        self._begin_act("Act 1: the world shifts to new products, new concerns, other words")
        plan, watcher = self.plan, self.watcher
        traffic.world, traffic.pace = "shifted", plan.pace
        watcher.reach("shift", watcher.now())
        await self._until(lambda: watcher.reached("alarm"), "the alarm", traffic)
        await self._look_for_drift(traffic)
        await self._until(lambda: watcher.reached("retrain"), "the training to begin", traffic)
        traffic.pace = plan.quiet_pace
        await self._until(lambda: watcher.reached("canary"), "a version that its gate lets through", traffic)
        traffic.pace = plan.pace
        await self._until(lambda: watcher.reached("promoted"), "the promotion", traffic)
        promoted = watcher.live.stable
        await self._until(lambda: len(self.by_stable(promoted)) >= plan.after, "answers by the new version", traffic)
        await self._until(lambda: watcher.reached("settled"), "the end of the holdback", traffic)

    async def _second_act(self, traffic: Traffic) -> None:
        """A bad version."""
        self._begin_act("Act 2: a person forces a bad version into canary")
        plan, watcher = self.plan, self.watcher
        version = await self._push_bad_version()
        began = watcher.now()
        reason = "a hurried person skips the gate"
        order = {"canary": {"version": version, "weight": plan.bad_weight}, "reason": reason}
        await self.admin.adapter("PATCH", "/deployment", json=order)
        watcher.tell("person", f"a person gives version {version} {plan.bad_weight:.0%} of the sessions: {reason}")
        watcher.reach("forced", began)
        await self._until(lambda: watcher.reached("rolled back", began), "the rollback", traffic)
        seen = len(self.ledger.answers)
        await self._until(
            lambda: len(self.ledger.answers) >= seen + plan.at_once, "answers after the rollback", traffic
        )
        self._begin_act("The end")

    async def _look_for_drift(self, traffic: Traffic) -> None:
        """Ask for a drift report, as `ostler drift --now` does: by itself the monitor looks every six hours."""
        seen = len(self.watcher.looks)
        await self.admin.adapter("POST", "/drift")
        await self._until(lambda: len(self.watcher.looks) > seen, "a drift report", traffic)

    async def _push_bad_version(self) -> int:
        content = await asyncio.to_thread(spoiled, demo.ADAPTERS[-1].folder, self.plan.seed)
        pushed = await self.admin.adapter("POST", "/versions", content=content, params={"note": "noise in its weights"})
        return int(pushed["version"]["number"])

    async def _found(self) -> dict[str, Any]:
        """What the page shows beside the story's own figures: the gate's report, and the drift before and after."""
        looks, job = self.watcher.looks, self.watcher.job
        candidate = job["ostler"]["candidate"].partition("@")[2]
        version = await self.admin.adapter("GET", f"/versions/{candidate}")
        first = next((look for look in looks.values() if look["columns"]), None)
        told = looks.get((job["metadata"] or {}).get("drift", ""))
        return {"gate": version["report"], "drift": told, "drift_before": first, "version": int(candidate)}

    def by_stable(self, version: int) -> list[Any]:
        """What a version answered as the stable one."""
        return [each for each in self.ledger.answers if (each.version, each.variant) == (version, "stable")]

    def _begin_act(self, title: str) -> None:
        self.act = title
        self.watcher.tell("story", title)

    async def _until(self, holds: Callable[[], Any], what: str, traffic: Traffic) -> None:
        """Wait while the story goes on.

        Raises:
            StoryFailed: it cannot come true any more.
        """
        while not holds():
            if self._looking is not None and self._looking.done():
                self._looking.result()
            if traffic.broken is not None:
                raise StoryFailed(f"the traffic broke off: {traffic.broken!r}")
            if self.watcher.trouble is not None:
                raise StoryFailed(f"while waiting for {what} the loop gave up: {self.watcher.trouble}")
            failures = self.ledger.failures
            if len(failures) > _MOST_FAILURES:
                raise StoryFailed(f"{len(failures)} requests failed; the last one: {failures[-1].how}")
            await asyncio.sleep(_LOOK_EVERY_S)


async def tell(url: str, key: str, plan: Plan, onlooker: Onlooker) -> tuple[Story, Summary]:
    """Tell the story to somebody.

    Raises:
        StoryFailed: it did not go as it should, or took too long.
    """
    story = Story(url, key, plan, onlooker)
    try:
        return story, await story.tell()
    except TimeoutError:
        last = story.watcher.events[-1].words if story.watcher.events else "nothing happened"
        message = f"it was not over after {plan.longest_s:.0f} s, in {story.act!r}; the last event: {last}"
        raise StoryFailed(message) from None
