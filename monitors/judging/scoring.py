"""Scores answers: what was captured, and what was said of them, each exactly once.

A format scorer needs the answer alone. A reference scorer waits for a correction, however late that comes, and then
scores the answer and its shadows alike, for the correction is the right answer to the request whoever answered it.
`feedback` needs nothing captured at all.

Of each answer and scorer the first score stands, for it may have entered a test already. Observations therefore come
in the order in which answers are scored, not in that in which they were given.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.judging.backlog import Backlog
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
            requests = await _requests_of(connection, {row.request_id for row in new})
        scores = await asyncio.to_thread(_captured_scores, new, requests, catalog)
        await self._write(scores, requests.records, self._captures, new, catalog, now)
        return bool(new)

    async def _next_feedback(self, catalog: Catalog, now: datetime) -> bool:
        async with self._database.connect() as connection:
            new = await self._feedback.take(connection, _BATCH, now)
            requests = await _requests_of(connection, {row.request_id for row in new})
        corrected = {row.record_id for row in new if row.correction is not None}
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
            await backlog.move(connection, done)
        backlog.confirm(done)


async def write_scores(
    connection: AsyncConnection, scores: Sequence[NewScore], records: Iterable[str], catalog: Catalog, now: datetime
) -> None:
    """Add the scores that are not there yet, and the observations that follow from all scores of `records`.

    It is the first thing that the transaction does, for SQLite would not let one write that has read before.
    """
    await hold_order(connection, now)
    insert: Any = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(_SCORES)
    if scores:
        rows = [asdict(score) | {"created_at": now} for score in scores]
        await connection.execute(insert.on_conflict_do_nothing(), rows)
    query = select(*(_SCORES.c[name] for name in Scored.__slots__)).where(_SCORES.c.record_id.in_(records))
    stored = [Scored(**row) for row in (await connection.execute(query.order_by(_SCORES.c.id))).mappings()]
    await write_observations(connection, observations(stored, engine_names(catalog)), now)


def engine_names(catalog: Catalog) -> EngineName:
    """How a version is called where it is what another one is held against."""

    def name(adapter: str, number: int) -> str:
        known = catalog.adapters[adapter].versions if adapter in catalog.adapters else {}
        return known[number].engine_name if number in known else f"{adapter}@{number}"

    return name


def _captured_scores(captures: Iterable[Row[Any]], requests: "_Requests", catalog: Catalog) -> list[NewScore]:
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
    except Exception:  # whatever an answer does to a scorer, the others are scored
        log.exception("the scorer %s failed on an answer, which has no score by it", choice.scorer)
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


@dataclass(frozen=True, slots=True)
class _Requests:
    """What is captured and corrected of some requests.

    Attributes:
        captures: an answer and its shadows for each request.
        corrections: the answer that should have been, by the record that it was said of.
    """

    captures: Sequence[Row[Any]] = ()
    corrections: Mapping[str, str] = field(default_factory=dict)

    @property
    def records(self) -> set[str]:
        """The records of all answers."""
        return {row.id for row in self.captures}

    def original(self, capture: Row[Any]) -> str | None:
        """The record of the answer that a client got: the capture's own, or that of which it is a shadow.

        A request id may be used again by its client; then the prompt tells the requests apart.
        """
        if capture.variant != SHADOW:
            return str(capture.id)
        same = (capture.request_id, capture.adapter)
        found = [
            row.id
            for row in self.captures
            if (row.request_id, row.adapter) == same and row.variant in OWN_VARIANTS and row.prompt == capture.prompt
        ]
        return found[0] if len(found) == 1 else None


async def _requests_of(connection: AsyncConnection, request_ids: set[str]) -> _Requests:
    if not request_ids:
        return _Requests()
    captured = select(_CAPTURES).where(_CAPTURES.c.request_id.in_(request_ids)).order_by(_CAPTURES.c.created_at)
    captures = list(await connection.execute(captured))
    columns = _FEEDBACK.c
    said = select(columns.record_id, columns.correction).order_by(columns.created_at.desc(), columns.id.desc())
    said = said.where(columns.record_id.in_([row.id for row in captures]), columns.correction.is_not(None))
    first = {row.record_id: row.correction for row in await connection.execute(said)}
    return _Requests(captures, first)
