"""The rows of the request log in the order in which they came, each once.

A row's id is its recorder's name and a number (`monitors.log.recorder`). A recorder writes its rows one batch after
another, so of one recorder no row ever appears behind one that was read; and a position is the last id read of each.
Rows are found by their primary key alone: what was written since is read, however long ago the requests began.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Row, Table, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.tables import RequestRow

Position: TypeAlias = Mapping[str, str]
"""The last id of each recorder, by its name."""

_NAME = 16
_BEHIND = "g"
"""Sorts behind every digit of a row's number, in every collation."""
_REQUESTS: Table = RequestRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_C = _REQUESTS.c


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
    of_them = (_C.adapter == adapter, _C.version.in_(versions), _C.started_at >= since)
    query = select(name, func.min(_C.id)).where(*of_them).group_by(name)
    firsts = {found[0]: found[1][:-1] for found in await connection.execute(query)}  # sorts before that very row
    return last | {recorder: min(row_id, last.get(recorder, row_id)) for recorder, row_id in firsts.items()}


async def arrived(
    connection: AsyncConnection,
    position: Position,
    last: Position,
    adapter: str,
    versions: Sequence[int],
    *,
    limit: int,
) -> tuple[list[Row[Any]], dict[str, str]]:
    """Up to `limit` rows of these versions behind a position and up to the `last` ones, and the position after them."""
    rows: list[Row[Any]] = []
    after = dict(position)
    for recorder, end in sorted(last.items()):
        begin = position.get(recorder, recorder)
        if end > begin and len(rows) < limit:
            left = limit - len(rows)
            found = list(await connection.execute(_rows(begin, end, adapter, versions).limit(left)))
            rows += found
            after[recorder] = end if len(found) < left else found[-1].id
    return rows, after


def _rows(begin: str, end: str, adapter: str, versions: Sequence[int]) -> Any:
    # An index on the adapter would be of no help: it leads to all of its requests, and not to the new ones.
    is_theirs = (_C.adapter + "" == adapter, _C.version.in_(versions))
    return select(_REQUESTS).where(_C.id > begin, _C.id <= end, *is_theirs).order_by(_C.id)


def _end(row_id: Any) -> Any:
    return func.substr(row_id, 1, _NAME) + _BEHIND
