"""Scores answers: what was captured, and what was said of them, each exactly once.

A format scorer needs the answer alone. A reference scorer waits for a correction, however late that comes, and then
scores the answer and its shadows alike, for the correction is the right answer to the request whoever answered it.
`feedback` needs nothing captured at all.

Of each answer and scorer the first score stands, for it may have entered a test already. Observations therefore come
in the order in which answers are scored, not in that in which they were given.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.judging.backlog import Backlog
from monitors.judging.captured import CapturedRequests, captured_requests, captures_by_id
from monitors.judging.choices import FEEDBACK, JUDGE
from monitors.judging.pairing import (
    OWN_VARIANTS,
    SHADOW,
    EngineName,
    Scored,
    hold_order,
    observations,
    write_observations,
)
from monitors.judging.scorers import SCORERS, Sample, score
from monitors.log.feedback import value_of
from monitors.tables import CaptureRow, FeedbackRow, ScoreRow
from monitors.watch.errors import place_of
from monitors.watch.work import Workshop
from registry.catalog import Catalog
from registry.database import writing
from registry.monitoring import ScorerChoice

log = logging.getLogger(__name__)

_BATCH = 200
_CAPTURES = CaptureRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_FEEDBACK = FeedbackRow.__table__  # type: ignore[attr-defined]
_SCORES = ScoreRow.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class NewScore(Scored):
    """A score to write; `source` says what the answer was held against."""

    source: str


class ScoringJob:
    """Scores what is new, in batches; a batch's scores, observations and cursor are one transaction."""

    name = "scoring"

    def __init__(self, workshop: Workshop) -> None:
        self.every_s = workshop.settings.score_every_s
        self._database = workshop.database
        self._captures = Backlog(self.name, _CAPTURES)
        self._feedback = Backlog(self.name, _FEEDBACK)

    async def run(self, catalog: Catalog, now: datetime) -> None:
        """Score until nothing is new."""
        more = True
        while more:
            captures = await self._next_captures(catalog, now)
            more = await self._next_feedback(catalog, now) or captures

    async def _next_captures(self, catalog: Catalog, now: datetime) -> bool:
        async with self._database.connect() as connection:
            new = await self._captures.take(connection, _BATCH, now)
            requests = await captured_requests(connection, new, {row.request_id for row in new})
        records = requests.records
        answers = [row for row in new if row.id in records]
        scores = await asyncio.to_thread(_captured_scores, answers, requests, catalog)
        await self._write(scores, records, self._captures, new, catalog, now)
        return bool(new)

    async def _next_feedback(self, catalog: Catalog, now: datetime) -> bool:
        async with self._database.connect() as connection:
            new = await self._feedback.take(connection, _BATCH, now)
            corrected = {row.record_id for row in new if row.correction is not None}
            asked = await captures_by_id(connection, corrected)
            requests = await captured_requests(connection, asked, {row.request_id for row in new})
        answers = [row for row in requests.captures if requests.original(row) in corrected]
        scores = [score for row in new if (score := _said_score(row)) is not None]
        scores += await asyncio.to_thread(_captured_scores, answers, requests, catalog)
        await self._write(scores, requests.records | {row.record_id for row in new}, self._feedback, new, catalog, now)
        return bool(new)

    async def _write(
        self,
        scores: Sequence[NewScore],
        records: Iterable[str],
        backlog: Backlog,
        done: Sequence[Row[Any]],
        catalog: Catalog,
        now: datetime,
    ) -> None:
        if not done:
            return
        async with writing(self._database) as connection:
            await write_scores(connection, scores, records, catalog, now)
            await backlog.move(connection, done, now)
        backlog.confirm(done)


async def write_scores(
    connection: AsyncConnection, scores: Sequence[NewScore], records: Iterable[str], catalog: Catalog, now: datetime
) -> None:
    """Add the scores that are not there yet, and the observations that follow from all scores of `records`.

    Of records that were deleted since they were read, nothing is written.

    It is the first thing that the transaction does, for SQLite would not let one write that has read before.
    """
    await hold_order(connection, now)
    there = await _still_there(connection, set(records))
    insert: Any = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(_SCORES)
    if rows := [asdict(score) | {"created_at": now} for score in scores if score.record_id in there]:
        await connection.execute(insert.on_conflict_do_nothing(), rows)
    query = select(*(_SCORES.c[name] for name in Scored.__slots__)).where(_SCORES.c.record_id.in_(there))
    stored = [Scored(**row) for row in (await connection.execute(query.order_by(_SCORES.c.id))).mappings()]
    await write_observations(connection, observations(stored, engine_names(catalog)), now)


async def _still_there(connection: AsyncConnection, records: set[str]) -> set[str]:
    """Those whose answer, or what was said of it, is kept; it stays until the transaction has ended.

    PostgreSQL passes over a row that somebody else is deleting just now.
    """
    there: set[str] = set()
    for column, key in ((_CAPTURES.c.id, _CAPTURES.c.id), (_FEEDBACK.c.record_id, _FEEDBACK.c.id)):
        query = select(column).where(column.in_(records)).order_by(key)
        held = query.with_for_update(read=True, key_share=True, skip_locked=True)
        there |= set((await connection.execute(held)).scalars())
    return there


def engine_names(catalog: Catalog) -> EngineName:
    """How a version is called where it is what another one is held against."""

    def name(adapter: str, number: int) -> str:
        known = catalog.adapters[adapter].versions if adapter in catalog.adapters else {}
        return known[number].engine_name if number in known else f"{adapter}@{number}"

    return name


def _captured_scores(captures: Iterable[Row[Any]], requests: CapturedRequests, catalog: Catalog) -> list[NewScore]:
    """What the adapters' scorers give the answers; those that lack what a scorer needs have no score by it."""
    found = []
    for row in captures:
        adapter = catalog.adapters.get(row.adapter)
        if adapter is None or row.variant not in (*OWN_VARIANTS, SHADOW):
            continue
        reference = requests.corrections.get(requests.original(row) or "")
        for choice in adapter.monitoring.scorers:
            value = _value(choice, Sample(row.answer, reference, row.prompt))
            if value is not None:
                source = "correction" if "reference" in SCORERS[choice.scorer].needs else "answer"
                found.append(_new_score(row, row.id, choice.scorer, value, source))
    return found


def _value(choice: ScorerChoice, sample: Sample) -> float | None:
    if choice.scorer == JUDGE:
        return None
    try:
        value = score(choice, sample)
    except Exception as error:  # whatever an answer does to a scorer, the others are scored
        log.error("the scorer %s failed on an answer, which has no score by it: %s", choice.scorer, place_of(error))
        return None
    return value if value is not None and 0 <= value <= 1 else None


def _said_score(row: Row[Any]) -> NewScore | None:
    """What clients or people think of an answer of the adapter's own."""
    value = value_of(row)
    if value is None or row.adapter is None or row.variant not in OWN_VARIANTS:
        return None
    return _new_score(row, row.record_id, FEEDBACK, value, FEEDBACK)


def _new_score(row: Row[Any], record_id: str, scorer: str, value: float, source: str) -> NewScore:
    return NewScore(
        record_id=record_id,
        request_id=row.request_id,
        adapter=row.adapter,
        version=row.version or 0,
        variant=row.variant,
        session=row.session,
        scorer=scorer,
        against="",
        value=value,
        source=source,
    )
