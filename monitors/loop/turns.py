"""One turn of the loop for one adapter: look, decide, and carry out; each step can be broken off and begun again.

Looking and deciding is one transaction: the tests' progress, the decision, and that it is to be carried out. What
follows from having carried it out is another one. Between them stands what `monitors.loop.acting` does, which done
twice is done once.
"""

import asyncio
import time
from datetime import datetime, timedelta
from typing import Any, Protocol

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.loop import approvals, material
from monitors.loop.acting import Acting, Done, Overtaken, settled
from monitors.loop.decide import decide
from monitors.loop.recording import advised, is_another, record, says_more, shown, shown_decision
from monitors.loop.refusals import dropped, instead, is_over, later, refusal_told, rests, trouble_of
from monitors.loop.seen import Labels, Seen
from monitors.loop.state import LoopState
from monitors.loop.store import Kept, Pending, load, save
from monitors.loop.transitions import after
from monitors.loop.verdicts import Act, Verdict
from monitors.watch.client import GatewayRefused
from monitors.watch.work import Workshop
from registry.catalog import Adapter, Catalog
from registry.database import writing
from registry.registry import Registry

_REFRESH = timedelta(seconds=30)
"""How old what is shown of a wait may be, while its numbers change and nothing follows from them."""
_AT_ONCE = 8
"""Adapters that are looked at at once; carrying out takes no place."""
_QUIET = frozenset({"quality_holds", "no_level", "nothing_serves", "off", "frozen", "paused"})
"""Outcomes that only something new makes others."""
_URGENT: frozenset[Act] = frozenset({"roll_back", "stand_back"})
_INWARD: frozenset[Act] = frozenset({"ask", "watch_canary", "end_cycle"})
"""Acts that change only what the loop keeps, so that they are done together with the decision."""
_ALSO_IN_ADVICE: frozenset[Act] = frozenset({"watch_canary", "end_cycle", "stand_back"})
"""Acts after which the loop is elsewhere also if it only advises."""


class Looked(Protocol):
    """What was read: see `monitors.loop.reading`."""

    @property
    def seen(self) -> Seen:
        """What a decision is made from."""
        ...

    @property
    def tests(self) -> dict[str, Any]:
        """The rollout's tests, with what is new."""
        ...

    @property
    def cursors(self) -> dict[str, Any]:
        """How far they have read."""
        ...


class Looks(Protocol):
    """Who reads it; only `see` is part of the transaction of the decision."""

    async def changed(self, catalog: Catalog, now: datetime, /) -> set[str]:
        """The adapters about which anything is new since the last call."""
        ...

    async def survey(self, adapter: Adapter, kept: Kept, now: datetime, /) -> Labels | None:
        """The labels that there are; None where no decision would ask for them."""
        ...

    async def see(
        self, connection: AsyncConnection, adapter: Adapter, kept: Kept, now: datetime, /, *, labels: Labels | None
    ) -> Looked:
        """Everything that a decision about the adapter is made from."""
        ...


class Turns:
    """Takes the loop's turns."""

    def __init__(self, workshop: Workshop, registry: Registry, looks: Looks) -> None:
        self._database = workshop.database
        self._looks = looks
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._acting = Acting(workshop, registry, self._note_file)

    async def take(self, adapter: Adapter, now: datetime) -> bool:
        """Carry out what was decided before, or else decide, and carry that out.

        Returns whether the adapter can be left alone until something about it is new.
        """
        began = time.monotonic()
        async with self._places:
            kept = await self._decided(adapter, now)
        if kept.pending is None:
            return adapter.policy.mode == "off" or _is_quiet(kept)
        if not rests(kept.pending, now) or await self._acting.is_stopped(adapter):
            await self._carry_out(adapter, kept, kept.pending, now, began)
        return False

    async def _decided(self, adapter: Adapter, now: datetime) -> Kept:
        """What is kept, with a decision that is to be carried out if there is one."""
        async with self._database.connect() as connection:
            kept = await load(connection, adapter.name)
        is_at_work = kept.pending is not None and not rests(kept.pending, now)
        if is_at_work or adapter.policy.mode == "off":
            return kept
        return await self._look(adapter, kept, now)

    async def _look(self, adapter: Adapter, kept: Kept, now: datetime) -> Kept:
        """Look without keeping anybody from writing; only what is new is looked at again, and kept."""
        labels = await self._looks.survey(adapter, kept, now)
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
        kept = msgspec.structs.replace(kept, pending=None)
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
        pending = Pending(verdict, decision, then, revision, seen.now)
        if verdict.act != "retrain":
            return pending
        order = await material.job_body(
            connection, adapter, adapter.policy, verdict.reason, cycle=then.cycle, decision=decision
        )
        return msgspec.structs.replace(pending, order=order, since=state.learned_until, until=seen.now)

    async def _carry_out(self, adapter: Adapter, kept: Kept, pending: Pending, now: datetime, began: float) -> None:
        try:
            done = await self._acting.carry_out(adapter, kept, pending)
        except Overtaken as overtaken:
            await self._drop(adapter.name, pending, str(overtaken), _meanwhile(now, began))
        except GatewayRefused as refused:
            await self._refused(adapter, pending, trouble_of(refused), _meanwhile(now, began))
        else:
            await self._finish(adapter.name, pending, done, _meanwhile(now, began))

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
            kept = shown(msgspec.structs.replace(kept, pending=None), verdict, now, decision)
            await save(connection, name, kept, now)

    async def _refused(self, adapter: Adapter, pending: Pending, trouble: str, now: datetime) -> None:
        """Try again later, and tell of it; after too long do something else."""
        rule = adapter.policy.rollout
        async with writing(self._database) as connection:
            kept = await load(connection, adapter.name, locked=True)
            waiting = kept.pending
            if waiting is None or not _is_still(kept, pending):
                return
            if is_over(waiting, rule, now):
                verdict = instead(waiting, trouble, rule)
                kept = await self._follow(connection, adapter, kept, verdict, Seen(now, adapter.deployment))
            else:
                if trouble != waiting.trouble:
                    await record(connection, adapter.name, kept.state, refusal_told(waiting, trouble), now)
                kept = msgspec.structs.replace(kept, pending=later(waiting, trouble, now))
            await save(connection, adapter.name, kept, now)


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
