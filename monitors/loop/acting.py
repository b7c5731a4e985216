"""Carries a decision out through the gateway's admin API, like a person would; done twice it is done once.

A change of a deployment names the decision and the revision that it was made on: the gateway refuses it after anybody
else's change, and a revision that names the decision says that it was carried out. A job has an idempotency key, and
its data a name and a content.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from monitors.loop import material
from monitors.loop.state import LoopState
from monitors.loop.store import Kept, Pending
from monitors.loop.verdicts import CHANGING, Act
from monitors.watch.client import GatewayRefused
from monitors.watch.work import Workshop
from registry.catalog import Adapter
from registry.registry import Registry
from registry.standing import standing_policy, standing_stops
from registry.stops import EVERYTHING
from registry.tables import RevisionRow
from registry.tuning.outlook import jobs_asked_for

ACTOR = "ostler"
"""Who stops the loop for an adapter where a person was first."""
LONGEST_REASON = 1000
_KEPT_FOR_S = 2_592_000
"""How long the gateway keeps the data at most: what it was made into stays with the version."""
_LOOKED_BACK = 50
_OTHERS_FIRST = (409, 412)
_STOPPED = "stopped"
_STOPPED_FIRST = "Automatic change was stopped before it was carried out."
WATCHED: frozenset[Act] = frozenset({"next_step", "promote", "end_holdback"})
"""Acts on a version that serves some already: it is looked at before each try, so no try may take long."""
_PATIENCE_S = 5.0
"""How long such a try may take; the gateway may go on, and the next try finds what it did."""


class Overtaken(Exception):
    """The decision is not carried out: a stop, or somebody else's change, was first. The message is for people."""


@dataclass(frozen=True, slots=True)
class Done:
    """What the carrying out came to: the job's id, or the deployment's revision."""

    job: str | None = None
    revision: int | None = None


class Acting:
    """Carries decisions out.

    Args:
        note_file: keeps the id of a pending decision's uploaded data, and says which one is kept.
    """

    def __init__(
        self, workshop: Workshop, registry: Registry, note_file: Callable[[str, Pending, str], Awaitable[str]]
    ) -> None:
        self._workshop = workshop
        self._gateway = workshop.gateway
        self._registry = registry
        self._note_file = note_file

    async def carry_out(
        self, adapter: Adapter, kept: Kept, pending: Pending, hold: Callable[[], Awaitable[None]]
    ) -> Done:
        """Do it, unless it is done already.

        `hold` is called before anything is done, and raises Overtaken if the decision does not hold any more.

        Raises:
            Overtaken: it must not be done any more.
            GatewayRefused: it could not be done now.
        """
        if pending.verdict.act == "stand_back":
            await self._registry.stop(adapter.name, actor=ACTOR, reason=_reason(pending))
            return Done()
        done = await self._done_before(adapter.name, pending)
        if done is not None:
            return done
        await self._require_going(adapter)
        await hold()
        if pending.verdict.act in CHANGING:
            return await self._change(adapter.name, kept.state, pending)
        return await self._retrain(adapter, pending, hold)

    async def _done_before(self, name: str, pending: Pending) -> Done | None:
        """What it came to, if an earlier try did it after all; a way back is not gone twice."""
        if pending.verdict.act == "roll_back":
            newest = await self._newest_revision(name)
            if newest is not None and newest.decision is not None and not _serves(newest, pending.verdict.version):
                return Done(revision=newest.number)
        if pending.verdict.act in CHANGING:
            revision = await self._revision_of(name, pending)
            return None if revision is None else Done(revision=revision)
        job = await self._job_of(name, pending)
        return None if job is None else Done(job=job)

    async def is_stopped(self, adapter: Adapter) -> bool:
        """Whether nothing may be carried out for the adapter now."""
        return await self._what_stops(adapter) is not None

    async def _require_going(self, adapter: Adapter) -> None:
        stopped = await self._what_stops(adapter)
        if stopped is not None:
            raise Overtaken(stopped)

    async def _what_stops(self, adapter: Adapter) -> str | None:
        """By what is stored now; a turn may have begun long ago."""
        async with self._workshop.database.connect() as connection:
            policy, _ = await standing_policy(connection, adapter.name)
            stops = await standing_stops(connection, adapter.name)
        if policy.mode != "act":
            return f"The policy's mode is {policy.mode} by now."
        if EVERYTHING in stops:
            return f"All automatic change was frozen {stops[EVERYTHING]} first."
        return f"The loop was paused {stops[adapter.name]} first." if adapter.name in stops else None

    async def _change(self, name: str, state: LoopState, pending: Pending) -> Done:
        method, action, body = _request(state, pending)
        path, headers = f"/admin/v1/adapters/{quote(name)}/{action}", {"if-match": f'"{pending.revision}"'}
        body = body | {"decision": pending.decision, "reason": _reason(pending)}
        try:
            async with asyncio.timeout(_PATIENCE_S if pending.verdict.act in WATCHED else None):
                answer = await self._gateway.admin(method, path, body, headers)
        except TimeoutError:
            raise GatewayRefused(f"the gateway did not answer within {_PATIENCE_S:g} s") from None
        except GatewayRefused as refused:
            return Done(revision=await self._revision_after(name, pending, refused))
        return Done(revision=_revision_in(answer))

    async def _revision_after(self, name: str, pending: Pending, refused: GatewayRefused) -> int:
        """The revision that the refused change made after all.

        Raises:
            Overtaken, GatewayRefused: it made none.
        """
        if refused.status not in _OTHERS_FIRST:
            raise refused
        done = await self._revision_of(name, pending)
        if done is not None:
            return done
        if refused.code == _STOPPED:
            raise Overtaken(refused.said or _STOPPED_FIRST) from refused
        newest = await self._newest_revision(name)
        if refused.status == 412 or newest is None or newest.number != pending.revision:
            raise Overtaken("The deployment was changed before it was carried out.") from refused
        raise refused

    async def _revision_of(self, name: str, pending: Pending) -> int | None:
        """The revision that followed from the decision; None if there is none."""
        rows = await self._registry.history(name, limit=_LOOKED_BACK)
        return next((row.number for row in rows if row.decision == pending.decision), None)

    async def _newest_revision(self, name: str) -> RevisionRow | None:
        rows = await self._registry.history(name, limit=1)
        return rows[0] if rows else None

    async def _job_of(self, name: str, pending: Pending) -> str | None:
        """The job that the decision asked for; None if there is none."""
        if pending.file is None:
            return None
        async with self._workshop.database.connect() as connection:
            jobs = await jobs_asked_for(connection, name, _key(name, pending))
        return next((job.id for job in jobs if job.order.get("training_file") == pending.file), None)

    async def _retrain(self, adapter: Adapter, pending: Pending, hold: Callable[[], Awaitable[None]]) -> Done:
        file = pending.file
        if file is None:
            file = await self._note_file(adapter.name, pending, await self._file(adapter, pending))
            await self._require_going(adapter)  # the upload took its time
            await hold()
        assert pending.order is not None, "a decision to train has an order"
        headers = {"idempotency-key": _key(adapter.name, pending)}
        ours = pending.order.get("ostler", {}) | {"decision": pending.decision}
        body = pending.order | {"training_file": file, "ostler": ours}
        try:
            answer = await self._gateway.admin("POST", "/v1/fine_tuning/jobs", body, headers)
        except GatewayRefused as refused:
            if refused.code == _STOPPED:
                raise Overtaken(refused.said or _STOPPED_FIRST) from refused
            raise
        return Done(job=str(answer["id"]))

    async def _file(self, adapter: Adapter, pending: Pending) -> str:
        """The id of the uploaded data; what was uploaded before is held against it, as anybody may use its name."""
        name = f"{_key(adapter.name, pending)}.jsonl"
        path = self._workshop.scratch / name
        try:
            digest, size = await self._write(adapter, pending, path)
            found = await self._uploaded(name, digest, size)
            if found is not None:
                return found
            with path.open("rb") as content:
                kept = {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(_KEPT_FOR_S)}
                sent = await self._gateway.upload(name, content, purpose="fine-tune", **kept)
            return str(sent["id"])
        finally:
            await asyncio.to_thread(path.unlink, missing_ok=True)

    async def _write(self, adapter: Adapter, pending: Pending, path: Path) -> tuple[str, int]:
        """Write the rows to a file; its SHA-256 and its size."""
        digest, size, rule = hashlib.sha256(), 0, adapter.policy.retrain
        assert pending.until is not None, "a decision to train says up to when"
        with path.open("wb") as opened:
            async with self._workshop.database.connect() as connection:
                rows = material.rows(connection, adapter, rule, since=pending.since, until=pending.until)
                async for row in rows:
                    digest.update(row)
                    size += len(row)
                    await asyncio.to_thread(opened.write, row)
        return digest.hexdigest(), size

    async def _uploaded(self, name: str, digest: str, size: int) -> str | None:
        listed = await self._gateway.get("/v1/files", purpose="fine-tune")
        for file in listed.get("data", ()):
            if (file["filename"], file["bytes"]) == (name, size):
                content = await self._gateway.download(file["id"])
                if hashlib.sha256(content).hexdigest() == digest:
                    return str(file["id"])
        return None


def _request(state: LoopState, pending: Pending) -> tuple[str, str, dict[str, Any]]:
    """The call that makes the change: its method, its path below the adapter, and its body."""
    verdict, rollout = pending.verdict, state.rollout
    if verdict.act == "roll_back" and not _only_the_canary(state):
        return "POST", "rollback", {}
    incumbent = None if rollout is None else rollout.incumbent
    return "PATCH", "deployment", _patch(verdict.act, verdict.version, verdict.weight, incumbent)


def _serves(revision: RevisionRow, version: int) -> bool:
    return version in (revision.stable, revision.canary)


def _only_the_canary(state: LoopState) -> bool:
    """Whether a roll-back ends a canary that a person set, perhaps together with other things that shall stay."""
    return state.phase == "rolling_out" and state.rollout is not None and state.rollout.by_person


def _patch(act: str, version: int, weight: float | None, incumbent: int | None) -> dict[str, Any]:
    match act:
        case "begin_rollout" | "next_step":
            return {"canary": {"version": version, "weight": weight}}
        case "promote":
            held = None if weight is None else {"version": incumbent, "weight": weight, "holdback": True}
            return {"stable": version, "canary": held}
        case _:
            return {"canary": None}


def _revision_in(answer: dict[str, Any]) -> int:
    return int(answer["deployment"]["revision"])


def _key(name: str, pending: Pending) -> str:
    return f"loop-{name}-{pending.then.cycle}"


def _reason(pending: Pending) -> str:
    return pending.verdict.reason[:LONGEST_REASON]


def settled(pending: Pending, done: Done, now: datetime) -> LoopState:
    """Where the loop is after it was carried out; what began with it began when it was done, not when decided."""

    def begun(moment: datetime) -> datetime:
        return now if moment == pending.decided_at else moment

    then, rollout = pending.then, pending.then.rollout
    since = None if then.since is None else begun(then.since)
    revision = then.revision if done.revision is None else done.revision
    if rollout is not None:
        began, step_began = begun(rollout.began_at), begun(rollout.step_began_at)
        rollout = msgspec.structs.replace(rollout, began_at=began, step_began_at=step_began)
    return msgspec.structs.replace(then, since=since, revision=revision, job=done.job or then.job, rollout=rollout)
