"""Deletes what has been kept long enough: the log and what was made of it, text, feedback's words, jobs' steps."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, Table, and_, delete, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.judging.quality import QualityJob
from monitors.log.recorder import MARKER
from monitors.log.request_log import ROWS_AT_ONCE, forget_observations
from monitors.tables import (
    CaptureRow,
    DeliveryRow,
    FeedbackRow,
    MonitorWindowRow,
    ObservationRow,
    RequestRow,
    ScoreRow,
    TeacherLabelRow,
)
from monitors.watch.progress import cursor
from registry.catalog import Catalog
from registry.database import writing
from registry.monitoring import Monitoring
from registry.tuning.tables import TuningEventRow, TuningJobRow

_REQUESTS: Table = RequestRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_CAPTURES: Table = CaptureRow.__table__  # type: ignore[attr-defined]
_FEEDBACK: Table = FeedbackRow.__table__  # type: ignore[attr-defined]
_SCORES: Table = ScoreRow.__table__  # type: ignore[attr-defined]
_OBSERVATIONS: Table = ObservationRow.__table__  # type: ignore[attr-defined]
_WINDOWS: Table = MonitorWindowRow.__table__  # type: ignore[attr-defined]
_TEACHER: Table = TeacherLabelRow.__table__  # type: ignore[attr-defined]
_DELIVERIES: Table = DeliveryRow.__table__  # type: ignore[attr-defined]
_JOBS: Table = TuningJobRow.__table__  # type: ignore[attr-defined]
_EVENTS: Table = TuningEventRow.__table__  # type: ignore[attr-defined]
_EVERY_S = 600.0
_MARKS_KEPT = timedelta(days=7)
_WINDOWS_KEPT = timedelta(days=60)
_COSTS_KEPT = timedelta(days=62)
_NO_WORDS: Mapping[str, Any] = {"comment": None, "correction": None}


class RetentionJob:
    """A `Job` that deletes, some hundred rows in a transaction, what is older than it may be.

    Scores, the observations that tests have taken and what webhooks were told go when the log does, and so do the steps
    that a tuning job told once it has ended so long ago; its file of results stays. Text is kept as long as its
    adapter's `capture_days` say, as they are now; so are the comments and corrections of feedback, whose numbers stay,
    and the answers of a teacher, whose costs stay for as long as the month that they count in, at least. What belongs
    to no adapter that there is is kept as long as is usual.

    What is due is looked for outside of the transactions that delete it: SQLite has one writer at a time.

    Args:
        database: where it all is.
        request_log_days: how long the rows of requests are kept, days.
    """

    name = "retention"
    every_s = _EVERY_S

    def __init__(self, database: AsyncEngine, request_log_days: float) -> None:
        self._database = database
        self._log_kept = timedelta(days=request_log_days)

    async def run(self, catalog: Catalog, now: datetime, /) -> None:
        """Delete what is due now; what was deleted before it stops stays so."""
        await self._clear(_REQUESTS, _REQUESTS.c.started_at < now - self._log_kept)
        await self._clear(_SCORES, _SCORES.c.created_at < now - self._log_kept)
        await self._clear_observations(now - self._log_kept)
        await self._clear(_TEACHER, _TEACHER.c.created_at < now - max(_COSTS_KEPT, self._log_kept))
        told = _DELIVERIES.c.state.in_(("delivered", "dead"))
        await self._clear(_DELIVERIES, and_(told, _DELIVERIES.c.created_at < now - self._log_kept))
        ended = select(_JOBS.c.id).where(_JOBS.c.finished_at < now - self._log_kept)
        await self._clear(_EVENTS, and_(_EVENTS.c.type == "metrics", _EVENTS.c.job.in_(ended)))
        special = _special(catalog)
        for days, adapters in special.items():
            await self._clear_text(now - timedelta(days=days), adapters)
        others = [name for adapters in special.values() for name in adapters]
        await self._clear_text(now - timedelta(days=Monitoring().capture_days), others, but=True)
        await self._clear_windows(now)

    async def _clear_text(self, until: datetime, adapters: list[str], *, but: bool = False) -> None:
        """Clear the text of these adapters, or of all `but` these."""
        await self._clear(_CAPTURES, and_(_CAPTURES.c.created_at < until, _is_of(_CAPTURES, adapters, but=but)))
        words = or_(_FEEDBACK.c.comment.is_not(None), _FEEDBACK.c.correction.is_not(None))
        said = and_(_FEEDBACK.c.created_at < until, words, _is_of(_FEEDBACK, adapters, but=but))
        await self._clear(_FEEDBACK, said, _NO_WORDS)
        taught = and_(
            _TEACHER.c.created_at < until, _TEACHER.c.answer.is_not(None), _is_of(_TEACHER, adapters, but=but)
        )
        await self._clear(_TEACHER, taught, {"answer": None})

    async def _clear_windows(self, now: datetime) -> None:
        """Clear what says that a piece of work is done, once nothing in the log could have it done again."""
        columns = _WINDOWS.c
        until = now - max(_WINDOWS_KEPT, self._log_kept)
        await self._clear(_WINDOWS, and_(columns.job == MARKER, columns.created_at < now - _MARKS_KEPT))
        await self._clear(_WINDOWS, and_(columns.job != MARKER, columns.created_at < until))

    async def _clear_observations(self, until: datetime) -> None:
        """Clear those that the tests have taken; the newest of all stays without a name."""
        columns = _OBSERVATIONS.c
        async with self._database.connect() as connection:
            taken = int(await cursor(connection, QualityJob.name, "") or 0)
        some = select(columns.id).where(columns.created_at < until, columns.id <= taken).limit(ROWS_AT_ONCE)
        done = 1
        while done and (rows := await self._look(some)):
            async with writing(self._database) as connection:
                done = await forget_observations(connection, columns.id.in_([row.id for row in rows]))

    async def _clear(self, table: Table, old: ColumnElement[bool], instead: Mapping[str, Any] | None = None) -> None:
        """Delete rows, or set what shall stand there instead, until there are none of these."""
        keys = list(table.primary_key.columns)
        some = select(*keys).where(old).limit(ROWS_AT_ONCE)
        change: Any = delete(table) if instead is None else update(table).values(**instead)
        while rows := await self._look(some):
            found = [row[0] for row in rows] if len(keys) == 1 else [tuple(row) for row in rows]
            async with writing(self._database) as connection:
                await connection.execute(change.where((keys[0] if len(keys) == 1 else tuple_(*keys)).in_(found)))

    async def _look(self, query: Select[Any]) -> Sequence[Row[Any]]:
        async with self._database.connect() as connection:
            return list(await connection.execute(query))


def _special(catalog: Catalog) -> dict[float, list[str]]:
    """The adapters whose text is kept for another time than is usual, by the days."""
    found: dict[float, list[str]] = defaultdict(list)
    for name, adapter in catalog.adapters.items():
        if adapter.monitoring.capture_days != Monitoring().capture_days:
            found[adapter.monitoring.capture_days].append(name)
    return found


def _is_of(table: Table, adapters: list[str], *, but: bool) -> ColumnElement[bool]:
    if but:
        return or_(table.c.adapter.is_(None), table.c.adapter.not_in(adapters))
    return table.c.adapter.in_(adapters)
