"""Deletes what has been kept long enough: the request log, captured text, and the words of feedback."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.log.recorder import MARKER
from monitors.log.request_log import ROWS_AT_ONCE
from monitors.tables import CaptureRow, FeedbackRow, MonitorWindowRow, RequestRow
from registry.catalog import Catalog
from registry.database import writing
from registry.monitoring import Monitoring

_REQUESTS: Table = RequestRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_CAPTURES: Table = CaptureRow.__table__  # type: ignore[attr-defined]
_FEEDBACK: Table = FeedbackRow.__table__  # type: ignore[attr-defined]
_MARKS: Table = MonitorWindowRow.__table__  # type: ignore[attr-defined]
_EVERY_S = 600.0
_MARKS_KEPT = timedelta(days=7)
_NO_WORDS: Mapping[str, Any] = {"comment": None, "correction": None}


class RetentionJob:
    """A `Job` that deletes, some hundred rows in a transaction, what is older than it may be.

    Text is kept as long as its adapter's `capture_days` say, as they are now; so are the comments and corrections of
    feedback, whose numbers stay. What belongs to no adapter that there is is kept as long as is usual.

    Args:
        database: where it all is.
        request_log_days: how long the rows of requests are kept, days.
    """

    name = "retention"
    every_s = _EVERY_S

    def __init__(self, database: AsyncEngine, request_log_days: float) -> None:
        self._database = database
        self._request_log_days = request_log_days

    async def run(self, catalog: Catalog, now: datetime, /) -> None:
        """Delete what is due now; what was deleted before it stops stays so."""
        await self._clear(_REQUESTS, _REQUESTS.c.started_at < now - timedelta(days=self._request_log_days))
        special = _special(catalog)
        for days, adapters in special.items():
            await self._clear_text(now - timedelta(days=days), adapters)
        others = [name for adapters in special.values() for name in adapters]
        await self._clear_text(now - timedelta(days=Monitoring().capture_days), others, but=True)
        async with writing(self._database) as connection:
            old = (_MARKS.c.job == MARKER, _MARKS.c.created_at < now - _MARKS_KEPT)
            await connection.execute(delete(_MARKS).where(*old))

    async def _clear_text(self, until: datetime, adapters: list[str], *, but: bool = False) -> None:
        """Clear the text of these adapters, or of all `but` these."""
        await self._clear(_CAPTURES, and_(_CAPTURES.c.created_at < until, _is_of(_CAPTURES, adapters, but=but)))
        words = or_(_FEEDBACK.c.comment.is_not(None), _FEEDBACK.c.correction.is_not(None))
        said = and_(_FEEDBACK.c.created_at < until, words, _is_of(_FEEDBACK, adapters, but=but))
        await self._clear(_FEEDBACK, said, _NO_WORDS)

    async def _clear(self, table: Table, old: ColumnElement[bool], instead: Mapping[str, Any] | None = None) -> None:
        """Delete rows, or set what shall stand there instead, until there are none of these."""
        some = select(table.c.id).where(old).limit(ROWS_AT_ONCE)
        change: Any = delete(table) if instead is None else update(table).values(**instead)
        done = ROWS_AT_ONCE
        while done == ROWS_AT_ONCE:
            async with writing(self._database) as connection:
                ids = (await connection.execute(some)).scalars().all()
                await connection.execute(change.where(table.c.id.in_(ids)))
            done = len(ids)


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
