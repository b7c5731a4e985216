"""Tuning jobs: asked for by clients, worked on by one tuner at a time, and kept.

What clients do is audited in the same transaction. Such transactions come one after another (`registry.transactions`),
so of two gateways that are asked the same thing at once, the second sees what the first has done. Cancelling and
pausing a job that somebody is at work on are wishes, which that tuner carries out within a step.

registry.tuning.states      the states, and the rules between them
registry.tuning.claims      what tuners do with jobs
"""

import hashlib
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Select, func, insert, literal, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from registry.artifacts import canonical_json
from registry.building import built
from registry.errors import Conflict, InvalidValue, NotFound
from registry.stops import require_going
from registry.tables import UtcDateTime
from registry.tuning.changes import Changes
from registry.tuning.claims import MOST_ATTEMPTS, Claims, JobLost, as_job
from registry.tuning.events import add_event
from registry.tuning.needs import add_needs
from registry.tuning.orders import TuningOrder
from registry.tuning.states import AT_WORK, ENDED, FAILURES, OPEN, STATES, can_be_judged_again, is_free, settled
from registry.tuning.tables import TuningJobRow

__all__ = ["AT_WORK", "ENDED", "MOST_ATTEMPTS", "OPEN", "STATES", "Asker", "JobLost", "Jobs", "digest_of", "order_of"]

LONGEST_IDEMPOTENCY_KEY = 255
_CHUNK = 500  # jobs that are read at once where a filter is held against each; others run between
_WISHES = {"run": "resume", "pause": "pause", "cancel": "cancel"}
_JOBS = TuningJobRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for a job: an API key's id, how history shows it, and the client's idempotency key if it sent one.

    `asked` is the digest of what was sent with that key, where that says more than the order: an order's seed is drawn
    anew and its version looked up each time.
    """

    key_id: str
    actor: str
    idempotency_key: str | None = None
    asked: str | None = None


def order_of(job: TuningJobRow) -> TuningOrder:
    """The order as it was stored."""
    return msgspec.convert(job.order, TuningOrder)


class Jobs(Claims):
    """Every job.

    Args:
        engine: the database, its schema up to date.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        self._changes = Changes(engine)

    async def made_before(self, asker: Asker) -> TuningJobRow | None:
        """The job that the same request with the same idempotency key made before.

        Raises:
            InvalidValue: the key's length is wrong, or it was sent with another request.
        """
        async with self._engine.connect() as connection:
            return await _made_before(connection, asker, asker.asked)

    async def create(
        self,
        order: TuningOrder,
        model: str,
        asker: Asker,
        *,
        most_open: int | None = None,
        decision: int | None = None,
    ) -> tuple[TuningJobRow, bool]:
        """Queue a job; whether it is new, rather than one that this idempotency key made before.

        `model` is what the client called the model to train; `most_open` jobs of one API key may be open at once.
        `decision` is what an automatic training follows from; without one it is a person's.

        Raises:
            InvalidValue: the idempotency key is too long, or was sent with another order.
            Conflict: too many jobs of this key are open.
            Stopped: it is automatic, and that is stopped, or the adapter's policy does not want it.
            NotFound: a file that it names was deleted.
        """
        order.check()
        row = _new_row(order, model, asker)
        async with self._changes.change(asker.actor) as change:
            connection = await change.session.connection()
            known = await _made_before(connection, asker, row["asked"])
            if known is not None:
                return known, False
            if decision is not None:
                await require_going(change.session, order.adapter)
            await _require_place(connection, asker.key_id, most_open)
            await connection.execute(insert(_JOBS).values(row))
            await add_needs(connection, row["id"], order)
            await add_event(connection, row["id"], f"Created fine-tuning job: {row['id']}")
            told = {"adapter": order.adapter, "model": model, "training_file": order.training_file}
            change.audit("create_job", f"job:{row['id']}", after=told)
            return await _required(connection, row["id"]), True

    async def find(self, job_id: str, *, adapters: Collection[str] | None = None) -> TuningJobRow:
        """One job; of some adapters alone, where these are given.

        Raises:
            NotFound
        """
        async with self._engine.connect() as connection:
            return await _required(connection, job_id, adapters)

    async def listed(
        self,
        *,
        adapters: Collection[str] | None = None,
        metadata: Mapping[str, str] | None = MappingProxyType({}),
        after: str | None = None,
        limit: int,
    ) -> list[TuningJobRow]:
        """Jobs, newest first, of some adapters or of all; `after` goes on from a job's id.

        `metadata` lets through the jobs that have all of these pairs; None lets through those without any metadata.

        Raises:
            NotFound: there is no job to go on from.
        """
        async with self._engine.connect() as connection:
            last = None if after is None else await _required(connection, after, adapters, param="after")
            if metadata is not None and not metadata:
                return await built(await connection.execute(_older(last, adapters).limit(limit)), as_job)
            ids = await _with_metadata(connection, _older(last, adapters), metadata, limit)
            query = _older(None, None).where(_JOBS.c.id.in_(ids))
            return await built(await connection.execute(query), as_job)

    async def wish(
        self, job_id: str, wanted: str, *, actor: str, adapters: Collection[str] | None = None
    ) -> TuningJobRow:
        """Have a job run, paused or cancelled (`wanted` is ``run``, ``pause`` or ``cancel``).

        What nobody is at work on changes at once; what is at work ends within a step. A wish that is granted already
        changes nothing. A job that failed at its gate before that had said anything may run again, to be evaluated.

        Raises:
            NotFound: there is no such job, or none of these adapters.
            Conflict: it has ended, or was cancelled.
        """
        async with self._changes.change(actor) as change:
            connection = await change.session.connection()
            job = await _required(connection, job_id, adapters, locked=True)
            if job.state == "cancelled" and wanted == "cancel":
                return job
            _require_open(job, wanted)
            columns = settled(job, wanted) if is_free(job, datetime.now(UTC)) else {}
            if job.wanted == wanted and not columns:
                return job
            await connection.execute(update(_JOBS).where(_JOBS.c.id == job_id).values(wanted=wanted, **columns))
            await add_event(connection, job_id, f"The job was asked to {_WISHES[wanted]}")
            change.audit(f"{_WISHES[wanted]}_job", f"job:{job_id}", adapter=job.adapter)
            return await _required(connection, job_id)

    async def counts(self) -> dict[str, int]:
        """How many jobs there are in each state; states without any are there with 0."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(_JOBS.c.state, func.count()).group_by(_JOBS.c.state))
            return dict.fromkeys(STATES, 0) | {state: count for state, count in rows}  # noqa: C416 - rows are no pairs

    async def failures(self) -> dict[str, int]:
        """How many jobs have failed for each reason, by its code; codes without any are there with 0."""
        code = _JOBS.c.error["code"].as_string()
        query = select(code, func.count()).where(_JOBS.c.state == "failed").group_by(code)
        async with self._engine.connect() as connection:
            rows = await connection.execute(query)
            return dict.fromkeys(FAILURES, 0) | {code: count for code, count in rows if code is not None}


def _new_row(order: TuningOrder, model: str, asker: Asker) -> dict[str, Any]:
    stored = msgspec.to_builtins(order)
    return {
        "id": f"ftjob-{secrets.token_hex(12)}",
        "key_id": asker.key_id,
        "adapter": order.adapter,
        "base": order.base,
        "model": model,
        "order": stored,
        "state": "queued",
        "stage": "waiting",
        "wanted": "run",
        "idempotency_key": asker.idempotency_key,
        "asked": asker.asked or digest_of([model, stored]),
        "attempt": 0,
        "created_by": asker.actor,
        "created_at": datetime.now(UTC),
    }


def digest_of(request: object) -> str:
    """What tells requests apart that come with the same idempotency key (SHA-256, hex)."""
    return hashlib.sha256(canonical_json(request)).hexdigest()


def _older(than: TuningJobRow | None, adapters: Collection[str] | None) -> Select[Any]:
    query = select(_JOBS).where(*_of(adapters)).order_by(_JOBS.c.created_at.desc(), _JOBS.c.id.desc())
    return query if than is None else query.where(_is_older(than))


def _is_older(than: Any) -> ColumnElement[bool]:
    return tuple_(_JOBS.c.created_at, _JOBS.c.id) < tuple_(literal(than.created_at, UtcDateTime()), than.id)


async def _with_metadata(
    connection: AsyncConnection, jobs: Select[Any], wanted: Mapping[str, str] | None, limit: int
) -> list[str]:
    """The ids of the first of these jobs that have that metadata; no more is read of the others than it takes."""
    found: list[str] = []
    slim, last = jobs.with_only_columns(_JOBS.c.id, _JOBS.c.created_at, _JOBS.c.order), None
    while len(found) < limit:
        chunk = slim if last is None else slim.where(_is_older(last))
        rows = list(await connection.execute(chunk.limit(_CHUNK)))
        found += [row.id for row in rows if _has_metadata(row.order, wanted)]
        if len(rows) < _CHUNK:
            break
        last = rows[-1]
    return found[:limit]


def _has_metadata(order: Mapping[str, Any], wanted: Mapping[str, str] | None) -> bool:
    held = order.get("metadata")
    return held is None if wanted is None else wanted.items() <= (held or {}).items()


async def _required(
    connection: AsyncConnection,
    job_id: str,
    adapters: Collection[str] | None = None,
    *,
    param: str = "fine_tuning_job_id",
    locked: bool = False,
) -> TuningJobRow:
    """A job; `locked` keeps tuners from changing it until the transaction is over (SQLite has one writer anyway)."""
    query = select(_JOBS).where(_JOBS.c.id == job_id, *_of(adapters))
    if locked:
        query = query.with_for_update()
    row = (await connection.execute(query)).first() if "\0" not in job_id else None
    if row is None:
        raise NotFound(f"there is no fine-tuning job {job_id!r}", param=param)
    return as_job(row)


def _of(adapters: Collection[str] | None) -> tuple[ColumnElement[bool], ...]:
    return () if adapters is None else (_JOBS.c.adapter.in_(sorted(adapters)),)


def _require_open(job: TuningJobRow, wanted: str) -> None:
    if wanted == "run" and can_be_judged_again(job):
        return
    if job.state in ENDED or (job.wanted == "cancel" and wanted != "cancel"):
        ended = job.state if job.state in ENDED else "being cancelled"
        raise Conflict(f"the job {job.id} is {ended}; it cannot be changed any more", param="fine_tuning_job_id")


async def _require_place(connection: AsyncConnection, key_id: str, most: int | None) -> None:
    mine = select(func.count()).where(_JOBS.c.key_id == key_id, _JOBS.c.state.in_(OPEN))
    if most is not None and (await connection.execute(mine)).scalar_one() >= most:
        raise Conflict(f"{most} fine-tuning jobs of this API key are open already; wait for one to end, or cancel one")


async def _made_before(connection: AsyncConnection, asker: Asker, asked: str | None) -> TuningJobRow | None:
    if asker.idempotency_key is None:
        return None
    if not 0 < len(asker.idempotency_key) <= LONGEST_IDEMPOTENCY_KEY:
        raise InvalidValue(
            f"an idempotency key may have 1 to {LONGEST_IDEMPOTENCY_KEY} characters", param="idempotency-key"
        )
    same = (_JOBS.c.key_id == asker.key_id, _JOBS.c.idempotency_key == asker.idempotency_key)
    row = (await connection.execute(select(_JOBS).where(*same))).first()
    if row is not None and row.asked != asked:
        raise InvalidValue(
            f"this idempotency key made the job {row.id} from another request; use a new one", param="idempotency-key"
        )
    return None if row is None else as_job(row)
