"""Which sessions count in a rollout: those that began in it, and were answered by one of its versions alone."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Row, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.tables import RequestRow

ARMS = ("stable", "canary")
"""How the two versions of a rollout answer their clients."""
_SERVED = (*ARMS, "pinned", "fallback")
_NAMELESS = "request "
_REQUESTS = RequestRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model


@dataclass(frozen=True, slots=True)
class Served:
    """When a version first answered a session in that way."""

    version: int | None
    variant: str
    first: datetime


History: TypeAlias = Mapping[str, Sequence[Served]]
"""How each session was answered."""


async def history(connection: AsyncConnection, adapter: str, sessions: Iterable[str]) -> History:
    """How these sessions were answered, as far as the request log goes back; some hundred at a time.

    A session that the client did not name goes by its request (`monitors.judging.pairing`).
    """
    names = set(sessions)
    ids = {name.removeprefix(_NAMELESS): name for name in names if name.startswith(_NAMELESS)}
    found: defaultdict[str, list[Served]] = defaultdict(list)
    for name, served in await _answered(connection, adapter, _REQUESTS.c.session, names - set(ids.values())):
        found[name].append(served)
    for request_id, served in await _answered(connection, adapter, _REQUESTS.c.request_id, ids.keys()):
        found[ids[request_id]].append(served)
    return found


async def _answered(
    connection: AsyncConnection, adapter: str, column: Any, names: Collection[str]
) -> list[tuple[str, Served]]:
    if not names:
        return []
    # An index on the adapter would be of no help: it leads to all of its requests, and not to these sessions'.
    columns = _REQUESTS.c
    first = func.min(columns.started_at)
    query = select(column, columns.version, columns.variant, first).where(
        column.in_(names), columns.adapter + "" == adapter, columns.variant.in_(_SERVED)
    )
    rows = await connection.execute(query.group_by(column, columns.version, columns.variant))
    return [(row[0], Served(row[1], row[2], row[3])) for row in rows]


def counts(observation: Row[Any], known: History, since: datetime, *, alone: bool) -> bool:
    """Whether a session counts: it began since then, and `alone` its own version has answered it.

    What happened to it after it was scored changes nothing, so the answer is the same whenever it is asked. A session
    that is in no log does not count, for nobody knows when it began.
    """
    served = known.get(observation.session, ())
    before = [each for each in served if each.first <= observation.created_at] or served
    if not before or min(each.first for each in before) < since:
        return False
    return not alone or all(each.version == observation.version and each.variant in ARMS for each in before)
