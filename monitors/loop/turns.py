"""One turn of the loop for one adapter: look, decide, and carry out; each step can be broken off and begun again.

Looking and deciding is one transaction: the tests' progress, the decision, and that it is to be carried out. What
follows from having carried it out is another one. Between them stands what `monitors.loop.acting` does, which done
twice is done once.
"""

import asyncio
import logging
import time
from datetime import datetime, timedelta

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.loop import approvals, material
from monitors.loop.acting import WATCHED, Acting, Done, Overtaken, settled
from monitors.loop.decide import decide
from monitors.loop.looks import Looked, Looks
from monitors.loop.recording import KIND, advised, is_another, record, says_more, shown, shown_decision
from monitors.loop.refusals import dropped, forgotten, instead, is_over, later, refusal_told, rests, trouble_of
from monitors.loop.seen import Labels, Seen
from monitors.loop.state import LoopState
from monitors.loop.store import Kept, Pending, load, save
from monitors.loop.transitions import after
from monitors.loop.trial import is_behind
from monitors.loop.verdicts import Act, Verdict
from monitors.loop.watching import conditions
from monitors.watch.client import GatewayRefused
from monitors.watch.errors import place_of
from monitors.watch.work import Workshop
from registry.catalog import Adapter
from registry.database import writing
from registry.registry import Registry
from registry.standing import standing_policy

log = logging.getLogger(__name__)

_REFRESH = timedelta(seconds=30)
"""How old what is shown of a wait may be, while its numbers change and nothing follows from them."""
_AT_ONCE = 8
"""Adapters that are looked at at once; counting labels and carrying out take no place."""
_QUIET = frozenset({"quality_holds", "no_level", "cannot_fall", "nothing_serves", "off", "frozen", "paused"})
"""Outcomes that only something new makes others."""
_URGENT: frozenset[Act] = frozenset({"roll_back", "stand_back"})
_INWARD: frozenset[Act] = frozenset({"ask", "watch_canary", "end_cycle", "take_up"})
"""Acts that change only what the loop keeps, so that they are done together with the decision."""
_ALSO_IN_ADVICE: frozenset[Act] = frozenset({"watch_canary", "end_cycle", "take_up", "stand_back"})
"""Acts after which the loop is elsewhere also if it only advises."""
_HELD_AGAIN = frozenset({"canary", "other_job", "budget", "hours"})
"""What must hold of a training also when it begins later than it was decided."""


class Turns:
    """Takes the loop's turns."""

    def __init__(self, workshop: Workshop, registry: Registry, looks: Looks) -> None:
        self._database = workshop.database
        self._failures = workshop.metrics.failures
        self._looks = looks
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._acting = Acting(workshop, registry, self._note_file)

    async def take(self, adapter: Adapter, now: datetime) -> bool:
        """Carry out what was decided before, or else decide, and carry that out.

        Returns whether the adapter can be left alone until something about it is new.
        """
        began = time.monotonic()
        kept = await self._caught_up(adapter, now)
        if kept.pending is None:
            return adapter.policy.mode == "off" or _is_quiet(kept)
        if not rests(kept.pending, now) or await self._acting.is_stopped(adapter):
            await self._carry_out(adapter, kept, kept.pending, now, began)
        return False

    async def _caught_up(self, adapter: Adapter, now: datetime) -> Kept:
        """What is kept once nothing is to be done or all that was there has been looked at."""
        kept, before = await self._decided(adapter, now), None
        while kept.pending is None and is_behind(kept) and kept.cursors != before:
            before = kept.cursors
            kept = await self._decided(adapter, now)
        return kept

    async def _decided(self, adapter: Adapter, now: datetime) -> Kept:
        """What is kept, with a decision that is to be carried out if there is one."""
        async with self._places, self._database.connect() as connection:
            kept = await load(connection, adapter.name)
        is_off = adapter.policy.mode == "off"
        if not _is_looked_at(kept.pending, now) or (is_off and not _is_changed(adapter, kept.state)):
            return kept
        labels = None if is_off else await self._looks.survey(adapter, kept, now)
        async with self._places:
            return await self._look(adapter, kept, labels, now)

    async def _look(self, adapter: Adapter, kept: Kept, labels: Labels | None, now: datetime) -> Kept:
        """Look without keeping anybody from writing; only what is new is looked at again, and kept."""
        async with self._database.connect() as connection:
            looked = await self._looks.see(connection, adapter, kept, now, labels=labels)
        if not _is_news(adapter, kept, looked, now):
            return kept
        async with writing(self._database) as connection:
            kept = await load(connection, adapter.name, locked=True)
            looked = await self._looks.see(connection, adapter, kept, now, labels=labels)
            kept = msgspec.structs.replace(kept, tests=looked.tests, cursors=looked.cursors)
            verdict = decide(looked.seen, kept.state, adapter.policy)
            if kept.pending is None or _supersedes(verdict, kept.pending):
                kept = await self._follow(connection, adapter, kept, verdict, looked.seen)
            await save(connection, adapter.name, kept, now)
        return kept

    async def _follow(
        self, connection: AsyncConnection, adapter: Adapter, kept: Kept, verdict: Verdict, seen: Seen
    ) -> Kept:
        """What is kept after the verdict, which is recorded where it is news."""
        kept = forgotten(kept)
        if adapter.policy.mode == "advise":
            return await self._advise(connection, adapter.name, kept, verdict, seen)
        if verdict.act == "wait" and not is_another(kept, verdict):
            return shown(kept, verdict, seen.now, shown_decision(kept))
        decision = await record(connection, adapter.name, kept.state, verdict, seen.now)
        kept = shown(kept, verdict, seen.now, decision)
        if verdict.act == "wait":
            return kept
        if verdict.act in _INWARD:
            return await self._settle_inward(connection, adapter.name, kept, verdict, seen, decision)
        pending = await self._pending(connection, adapter, kept.state, verdict, seen, decision)
        return msgspec.structs.replace(kept, pending=pending)

    async def _advise(self, connection: AsyncConnection, name: str, kept: Kept, verdict: Verdict, seen: Seen) -> Kept:
        """Nothing outside changes: what would be done is recorded once."""
        said, decision = advised(verdict), shown_decision(kept)
        if said.act != "wait" or is_another(kept, said):
            decision = await record(connection, name, kept.state, said, seen.now, wanted=verdict.act)
        if verdict.act in _ALSO_IN_ADVICE:
            kept = msgspec.structs.replace(kept, state=_then(kept.state, verdict, seen))
        return shown(kept, said, seen.now, decision)

    async def _settle_inward(
        self, connection: AsyncConnection, name: str, kept: Kept, verdict: Verdict, seen: Seen, decision: int
    ) -> Kept:
        if verdict.act != "ask":
            return msgspec.structs.replace(kept, state=_then(kept.state, verdict, seen))
        assert verdict.wanted is not None, "what is asked for has a name"
        cycle = kept.state.cycle + (verdict.wanted == "retrain")
        await approvals.ask(connection, name, cycle, verdict.wanted, decision, seen.now)
        return kept

    async def _pending(
        self,
        connection: AsyncConnection,
        adapter: Adapter,
        state: LoopState,
        verdict: Verdict,
        seen: Seen,
        decision: int,
    ) -> Pending:
        revision = seen.deployment.revision if seen.deployment else 0
        then = _then(state, verdict, seen)
        pending = Pending(verdict, decision, then, revision, seen.now, adapter.policy_number)
        if verdict.act != "retrain":
            return pending
        order = await material.job_body(
            connection, adapter, adapter.policy, verdict.reason, cycle=then.cycle, decision=decision
        )
        return msgspec.structs.replace(pending, order=order, since=_learned(state, seen), until=seen.now)

    async def _carry_out(self, adapter: Adapter, kept: Kept, pending: Pending, now: datetime, began: float) -> None:
        try:
            done = await self._acting.carry_out(
                adapter, kept, pending, lambda: self._hold(adapter, kept, pending, _meanwhile(now, began))
            )
        except Overtaken as overtaken:
            await self._drop(adapter.name, pending, str(overtaken), _meanwhile(now, began))
        except Exception as error:
            if not isinstance(error, GatewayRefused):
                log.error("%s about %s failed: %s", pending.verdict.act, adapter.name, place_of(error))
                self._failures.labels(KIND).inc()
            await self._refused(adapter, pending, trouble_of(error), _meanwhile(now, began))
        else:
            await self._finish(adapter.name, pending, done, _meanwhile(now, began))

    async def _hold(self, adapter: Adapter, kept: Kept, pending: Pending, now: datetime) -> None:
        """Have a training begin only while it would be decided still, whatever labels have come since.

        Raises:
            Overtaken: it would not.
        """
        if pending.verdict.act != "retrain":
            return
        async with self._database.connect() as connection:
            policy, number = await standing_policy(connection, adapter.name)
            seen = (await self._looks.see(connection, adapter, kept, now, labels=None)).seen
        if number != pending.policy:
            raise Overtaken("The policy was changed first.")
        if seen.deployment is None or seen.deployment.revision != pending.revision:
            raise Overtaken("The deployment was changed first.")
        missing = [each for each in conditions(seen, kept.state, policy.retrain) if not each.holds]
        if said := [each.said for each in missing if each.name in _HELD_AGAIN]:
            raise Overtaken(" ".join(said))

    async def _finish(self, name: str, pending: Pending, done: Done, now: datetime) -> None:
        async with writing(self._database) as connection:
            kept = await load(connection, name, locked=True)
            if _is_still(kept, pending):
                kept = msgspec.structs.replace(kept, state=settled(pending, done, now), pending=None)
                await save(connection, name, kept, now)

    async def _note_file(self, name: str, pending: Pending, file: str) -> str:
        """Keep which file is the job's data; the first one stays, so that two who ask for the job ask for the same."""
        async with writing(self._database) as connection:
            kept = await load(connection, name, locked=True)
            if kept.pending is None or not _is_still(kept, pending):
                raise Overtaken("Another monitor has taken the decision over.")
            if kept.pending.file is not None:
                return kept.pending.file
            kept = msgspec.structs.replace(kept, pending=msgspec.structs.replace(kept.pending, file=file))
            await save(connection, name, kept, kept.saved_at or pending.decided_at)
            return file

    async def _drop(self, name: str, pending: Pending, why: str, now: datetime) -> None:
        """Forget what must not be carried out any more; the next look decides anew."""
        async with writing(self._database) as connection:
            kept = await load(connection, name, locked=True)
            if not _is_still(kept, pending):
                return
            verdict = dropped(pending, why)
            decision = await record(connection, name, kept.state, verdict, now)
            kept = shown(forgotten(kept), verdict, now, decision)
            await save(connection, name, kept, now)

    async def _refused(self, adapter: Adapter, pending: Pending, trouble: str, now: datetime) -> None:
        """Try again later, and tell of it; after too long do something else."""
        rule = adapter.policy.rollout
        async with writing(self._database) as connection:
            kept = await load(connection, adapter.name, locked=True)
            waiting = kept.pending
            if waiting is None or not _is_still(kept, pending):
                return
            kept = msgspec.structs.replace(kept, pending=later(waiting, trouble, now))
            if is_over(waiting, rule, now):
                verdict = instead(waiting, trouble, rule)
                kept = await self._follow(connection, adapter, kept, verdict, Seen(now, adapter.deployment))
            elif trouble != waiting.trouble:
                await record(connection, adapter.name, kept.state, refusal_told(waiting, trouble), now)
            await save(connection, adapter.name, kept, now)


def _learned(state: LoopState, seen: Seen) -> datetime | None:
    """Up to when labels are in what the stable version, which the training goes on from, was made of."""
    return None if seen.deployment is None else state.learned_by(seen.deployment.stable)


def _is_looked_at(pending: Pending | None, now: datetime) -> bool:
    """Whether what is seen now may come before what is to be carried out, or nothing is."""
    return pending is None or rests(pending, now) or pending.verdict.act in WATCHED


def _is_changed(adapter: Adapter, state: LoopState) -> bool:
    """Whether anybody changed the deployment since the loop last did, or began something."""
    deployment = adapter.deployment
    return deployment is not None and state.revision not in (0, deployment.revision)


def _is_news(adapter: Adapter, kept: Kept, looked: Looked, now: datetime) -> bool:
    """Whether anything must be written."""
    if (looked.tests, looked.cursors) != (kept.tests, kept.cursors):
        return True
    verdict = decide(looked.seen, kept.state, adapter.policy)
    if kept.pending is not None:
        return _supersedes(verdict, kept.pending)
    said = advised(verdict) if adapter.policy.mode == "advise" else verdict
    if said.act != "wait" or is_another(kept, said) or kept.saved_at is None:
        return True
    return now - kept.saved_at >= _REFRESH and says_more(kept, said)


def _supersedes(verdict: Verdict, pending: Pending) -> bool:
    """Whether the verdict comes before a decision that the gateway has refused so far."""
    return verdict.act in _URGENT and pending.verdict.act not in _URGENT


def _then(state: LoopState, verdict: Verdict, seen: Seen) -> LoopState:
    """The state after the verdict; the loop knows the deployment as it was seen."""
    known = state.revision if seen.deployment is None else seen.deployment.revision
    return msgspec.structs.replace(after(state, verdict, seen), revision=known)


def _is_quiet(kept: Kept) -> bool:
    said = kept.verdict or {}
    return kept.state.phase == "watching" and said.get("act") == "wait" and said.get("outcome") in _QUIET


def _is_still(kept: Kept, pending: Pending) -> bool:
    return kept.pending is not None and kept.pending.decision == pending.decision


def _meanwhile(now: datetime, began: float) -> datetime:
    return now + timedelta(seconds=time.monotonic() - began)
