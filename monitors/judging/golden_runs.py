"""Runs of golden sets: asked for, worked off one after another, and kept for ever.

queued -> running -> done | failed

Only the monitor that holds the lease works on runs, so one that is `running` when it begins was left by a monitor that
died, and is begun anew. A run is finished only by who began it.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Row, func, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.judging.golden_sets import SetEntry
from monitors.tables import GoldenRunRow
from registry.catalog import Adapter
from registry.errors import Conflict, NotFound

Target = int | Literal["stable", "canary", "base"]
BASE_VERSION = 0
MOST_QUEUED = 100
"""Runs of one adapter that may wait; whoever asks again and again has made a mistake."""
_RUNS = GoldenRunRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_LISTED = [column for column in _RUNS.c if column.name != "items"]


@dataclass(frozen=True, slots=True)
class Contender:
    """A model that a set is run against; version 0 is the base model."""

    model: str
    version: int


@dataclass(frozen=True, slots=True)
class Order:
    """Runs to make together.

    Attributes:
        contenders: what the set is run against, each once.
        reason: ``requested`` or ``scheduled``.
        requested_by: who asked for it.
    """

    adapter: str
    entry: SetEntry
    contenders: Sequence[Contender]
    reason: str
    requested_by: str


def contenders(adapter: Adapter, targets: Iterable[Target]) -> list[Contender]:
    """The models that are meant, each once, the base first: others are held against it.

    Raises:
        NotFound: there is no such version.
        Conflict: it is archived, or the adapter has no stable version or canary.
    """
    found = {contender.version: contender for contender in (_contender(adapter, target) for target in targets)}
    return [found[version] for version in sorted(found)]


def _contender(adapter: Adapter, target: Target) -> Contender:
    if target == "base":
        return Contender(adapter.base, BASE_VERSION)
    number = _number(adapter, target)
    version = adapter.versions.get(number)
    if version is None:
        raise NotFound(f"adapter {adapter.name!r} has no version {number}", param="versions")
    if version.archived:
        raise Conflict(f"version {number} of {adapter.name!r} is archived; bring it back first", param="versions")
    return Contender(version.engine_name, number)


def _number(adapter: Adapter, target: int | Literal["stable", "canary"]) -> int:
    deployment = adapter.deployment
    if target == "stable" and deployment is not None:
        return deployment.stable
    if target == "canary" and deployment is not None and deployment.canary is not None:
        return deployment.canary.version
    if isinstance(target, int):
        return target
    raise Conflict(f"adapter {adapter.name!r} has no {target} version now; say a version's number", param="versions")


async def are_asked_for(
    connection: AsyncConnection, adapter: str, digest: str, contenders: Iterable[Contender]
) -> bool:
    """Whether the set waits to be run, or is being run, against each of these already."""
    query = select(_RUNS.c.model).where(
        _RUNS.c.adapter == adapter, _RUNS.c.digest == digest, _RUNS.c.state.in_(("queued", "running"))
    )
    models = set((await connection.execute(query)).scalars())
    return models.issuperset(contender.model for contender in contenders)


async def queue_runs(connection: AsyncConnection, order: Order) -> list[Row[Any]]:
    """Queue the runs of one batch; they are worked off in this order.

    Raises:
        Conflict: too many of the adapter's wait already.
    """
    waiting = select(func.count()).where(_RUNS.c.adapter == order.adapter, _RUNS.c.state.in_(("queued", "running")))
    if (await connection.execute(waiting)).scalar_one() + len(order.contenders) > MOST_QUEUED:
        raise Conflict(f"more than {MOST_QUEUED} runs of {order.adapter!r} would wait; let some finish first")
    batch, now = secrets.token_hex(12), datetime.now(UTC)
    common = {
        "batch": batch,
        "adapter": order.adapter,
        "golden_set": order.entry.number,
        "digest": order.entry.digest,
        "reason": order.reason,
        "state": "queued",
        "requested_by": order.requested_by,
        "created_at": now,
    }
    rows = [
        {**common, "id": f"{batch}{number:04x}", "model": contender.model, "version": contender.version}
        for number, contender in enumerate(order.contenders)
    ]
    await connection.execute(insert(_RUNS), rows)
    made = select(*_LISTED).where(_RUNS.c.batch == batch).order_by(_RUNS.c.id)
    return list(await connection.execute(made))


async def list_runs(connection: AsyncConnection, adapter: str, *, before: str | None, limit: int) -> list[Row[Any]]:
    """The adapter's runs without their items, newest first; `before` goes on from a run's id."""
    query = select(*_LISTED).where(_RUNS.c.adapter == adapter)
    query = query.order_by(_RUNS.c.created_at.desc(), _RUNS.c.id.desc()).limit(limit)
    if before is not None:
        mark = select(_RUNS.c.created_at, _RUNS.c.id).where(_RUNS.c.id == before, _RUNS.c.adapter == adapter)
        query = query.where(tuple_(_RUNS.c.created_at, _RUNS.c.id) < mark.scalar_subquery())
    return list(await connection.execute(query))


async def find_run(connection: AsyncConnection, adapter: str, id: str) -> Row[Any] | None:
    """One run with its items."""
    query = select(_RUNS).where(_RUNS.c.adapter == adapter, _RUNS.c.id == id)
    return (await connection.execute(query)).first()


async def are_any(connection: AsyncConnection, state: Literal["queued", "running"]) -> bool:
    """Whether any run is in that state."""
    return (await connection.execute(select(_RUNS.c.id).where(_RUNS.c.state == state).limit(1))).first() is not None


async def requeue_running(connection: AsyncConnection) -> None:
    """Have what a dead monitor was at begun anew."""
    await connection.execute(update(_RUNS).where(_RUNS.c.state == "running").values(state="queued", started_at=None))


async def next_run(connection: AsyncConnection) -> Row[Any] | None:
    """Begin the run that waits longest, the base's first in its batch; None if none waits."""
    waiting = select(_RUNS).where(_RUNS.c.state == "queued").order_by(_RUNS.c.created_at, _RUNS.c.id).limit(1)
    found = (await connection.execute(waiting)).first()
    if found is None:
        return None
    begin = update(_RUNS).where(_RUNS.c.id == found.id, _RUNS.c.state == "queued")
    await connection.execute(begin.values(state="running", started_at=datetime.now(UTC)))
    return (await connection.execute(select(_RUNS).where(_RUNS.c.id == found.id))).first()


async def finish_run(
    connection: AsyncConnection,
    run: Row[Any],
    *,
    error: str | None = None,
    results: Mapping[str, Any] | None = None,
    items: Sequence[Mapping[str, Any]] | None = None,
) -> bool:
    """Say how it ended; False if somebody else has begun it anew since."""
    ours = (_RUNS.c.id == run.id, _RUNS.c.state == "running", _RUNS.c.started_at == run.started_at)
    values = {"state": "failed" if error else "done", "error": error, "results": results, "items": items}
    ended = update(_RUNS).where(*ours).values(**values, finished_at=datetime.now(UTC))
    return bool((await connection.execute(ended)).rowcount)


async def items_of_base(connection: AsyncConnection, batch: str) -> list[dict[str, Any]] | None:
    """What the base model scored in the same batch, row by row; None if it was not run, or failed."""
    query = select(_RUNS.c["items"]).where(_RUNS.c.batch == batch, _RUNS.c.version == BASE_VERSION)
    return (await connection.execute(query.where(_RUNS.c.state == "done"))).scalars().first()


async def newest_results(connection: AsyncConnection) -> list[Row[Any]]:
    """The results of each model's newest run that was done."""
    newest = (
        select(_RUNS.c.adapter, _RUNS.c.version, func.max(_RUNS.c.finished_at).label("at"))
        .where(_RUNS.c.state == "done")
        .group_by(_RUNS.c.adapter, _RUNS.c.version)
        .subquery()
    )
    same = (
        (_RUNS.c.adapter == newest.c.adapter)
        & (_RUNS.c.version == newest.c.version)
        & (_RUNS.c.finished_at == newest.c.at)
    )
    query = select(_RUNS.c.adapter, _RUNS.c.version, _RUNS.c.results).join(newest, same)
    return list(await connection.execute(query.where(_RUNS.c.state == "done")))
