"""The rows of the request log that tell of two versions, in the order in which they ended, each once.

A row's id is its recorder's name and a number (`monitors.log.recorder`). A recorder writes its rows one batch after
another, so of one recorder no row ever appears behind one that was read; and a position is the last id read of each.
Rows are found by their primary key alone: what was written since is read, however long ago the requests began.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Row, Table, and_, func, literal, not_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.tables import RequestRow

Position: TypeAlias = Mapping[str, str]
"""The last id of each recorder, by its name."""

_NAME = 16
_LAST_DIGITS = 31
"""Where the last two digits of a row's id begin, which take turns."""
_FOR_EACH = 20
"""Rows of the old version that are read for each of the new one's."""
_AT_LEAST = 200
"""Rows of the old version that are read though there are hardly any of the new one."""
_BEHIND = "g"
"""Sorts behind every digit of a row's number, in every collation."""
_REQUESTS: Table = RequestRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_C = _REQUESTS.c


@dataclass(frozen=True, slots=True)
class Arrived:
    """What was read.

    Attributes:
        rows: in the order in which the requests ended.
        position: after them.
        is_behind: whether there is more.
    """

    rows: Sequence[Row[Any]]
    position: dict[str, str]
    is_behind: bool


async def newest(connection: AsyncConnection) -> dict[str, str]:
    """The newest row's id of each recorder that has any; two looks into an index for each recorder."""
    first = select(func.min(_C.id).label("id"), literal(1).label("step")).cte("recorders", recursive=True)
    found = first.alias()
    following = select(func.min(_C.id)).where(_C.id > _end(found.c.id)).scalar_subquery()
    recorders = first.union_all(select(following, found.c.step + 1).where(found.c.id.is_not(None)))
    last = select(func.max(_C.id)).where(_C.id < _end(recorders.c.id)).scalar_subquery()
    query = select(last).where(recorders.c.id.is_not(None))
    return {row_id[:_NAME]: row_id for row_id in (await connection.execute(query)).scalars()}


async def position_at(
    connection: AsyncConnection, adapter: str, versions: Sequence[int], since: datetime
) -> dict[str, str]:
    """From where to read everything of these versions' requests since that moment, and little that is older."""
    last = await newest(connection)
    name = func.substr(_C.id, 1, _NAME)
    theirs = or_(_C.version.in_(versions), _C.version.is_(None))  # also what the base model answered in their place
    query = select(name, func.min(_C.id)).where(_C.adapter == adapter, theirs, _C.started_at >= since).group_by(name)
    firsts = {found[0]: found[1][:-1] for found in await connection.execute(query)}  # sorts before that very row
    return last | {recorder: min(row_id, last.get(recorder, row_id)) for recorder, row_id in firsts.items()}


async def arrived(
    connection: AsyncConnection, position: Position, last: Position, adapter: str, new: int, old: int, *, limit: int
) -> Arrived:
    """What tells of these versions behind a position and up to the `last` rows.

    Every recorder has its share of the `limit`. Of the new version all rows are read sooner or later, of the old one
    as many as they can be held against: where it has more, some that are spread evenly over the time.
    """
    behind = {each: end for each, end in sorted(last.items()) if end > position.get(each, each)}
    share = max(1, limit // max(1, len(behind)))
    rows: list[Row[Any]] = []
    after, is_behind = dict(position), False
    for recorder, end in behind.items():
        begin = position.get(recorder, recorder)
        is_new = _tells_of(new)
        found = await _rows(connection, begin, end, adapter, is_new, _C.id, share)
        is_cut = len(found) == share
        after[recorder] = found[-1].id if is_cut else end
        is_behind |= is_cut and after[recorder] < end
        is_old = and_(_tells_of(old), not_(is_new))
        most = max(_AT_LEAST, min(share, _FOR_EACH * len(found)))
        rows += found
        rows += await _rows(connection, begin, after[recorder], adapter, is_old, func.substr(_C.id, _LAST_DIGITS), most)
    return Arrived(sorted(rows, key=_ended), after, is_behind)


def _tells_of(version: int) -> ColumnElement[bool]:
    """Rows of a version, and of what answered in its place."""
    return func.coalesce(_C.intended, _C.version, 0) == version


async def _rows(
    connection: AsyncConnection,
    begin: str,
    end: str,
    adapter: str,
    which: ColumnElement[bool],
    first: ColumnElement[Any],
    limit: int,
) -> Sequence[Row[Any]]:
    # An index on the adapter would be of no help: it leads to all of its requests, and not to the new ones.
    new = (_C.id > begin, _C.id <= end, _C.adapter + "" == adapter)
    query = select(_REQUESTS).where(*new, which).order_by(first, _C.id).limit(limit)
    return (await connection.execute(query)).all()


def _ended(row: Row[Any]) -> tuple[datetime, str]:
    return row.started_at + timedelta(seconds=row.duration_s), row.id


def _end(row_id: Any) -> Any:
    return func.substr(row_id, 1, _NAME) + _BEHIND
