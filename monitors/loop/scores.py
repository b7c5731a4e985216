"""Feeds the scores of a rollout's sessions into its tests, each session once, in the order in which they were scored.

Without a shadow each version has sessions of its own, and the first of the one is held against the first of the other
(`monitors.loop.matching`). Where one of the two answers the other's requests in shadow, these are true pairs and are
used instead. Observations appear in the order of their ids (`monitors.judging.pairing`), so none is passed over.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.judging.pairing import BASE, LEVEL
from monitors.loop.sessions import counts, history
from monitors.loop.trial import Sides, Trial
from monitors.tables import ObservationRow

MOST_AT_ONCE = 500
"""Observations that one look takes; the next look takes the rest."""
_CLOCKS = timedelta(minutes=5)
"""How much the clocks of two monitors may differ."""
_OBSERVATIONS = ObservationRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_C = _OBSERVATIONS.c


async def first_observation(connection: AsyncConnection, since: datetime) -> int:
    """An id up to which all observations are older, found by halving: their ids are in the order of their moments."""
    low, high = 0, await _newest(connection)
    while low < high:
        middle = (low + high) // 2
        after = select(_C.created_at).where(_C.id > middle).order_by(_C.id).limit(1)
        moment = await connection.scalar(after)
        if moment is None or moment >= since - _CLOCKS:
            high = middle
        else:
            low = middle + 1
    return low


async def last_observation(connection: AsyncConnection, until: datetime) -> int:
    """An id behind which all observations are at least as new."""
    return await first_observation(connection, until + _CLOCKS)


async def feed_scores(connection: AsyncConnection, trial: Trial) -> None:
    """Give the tests what was scored since the last look."""
    newest = await _newest(connection)
    if newest <= trial.observation:
        return
    rows, trial.observation = await new_scores(connection, trial.sides, trial.observation, newest)
    for row in rows:
        take_score(trial, row)


async def new_scores(connection: AsyncConnection, sides: Sides, behind: int, newest: int) -> tuple[list[Row[Any]], int]:
    """Of the next observations behind an id and up to the newest those that count, and the id up to which they go."""
    rows = await _new(connection, behind, newest, sides)
    known = await history(connection, sides.adapter, {row.session for row in rows})
    firsts = await _first_pairs(connection, rows, sides) if sides.paired else {}
    own = [row for row in rows if row.against in (LEVEL, BASE) or firsts[row.session] == row.id]
    found = [row for row in own if counts(row, known, sides.began_at, alone=row.against == LEVEL)]
    return found, rows[-1].id if len(rows) == MOST_AT_ONCE else newest


def take_score(trial: Trial, row: Row[Any]) -> None:
    """Give the tests one observation that counts."""
    if row.against == BASE:
        trial.base.update(row.value)
    elif row.against == LEVEL:
        _match(trial, row)
    else:
        trial.incumbent.update(row.value if row.version == trial.sides.new else -row.value)


def _match(trial: Trial, row: Row[Any]) -> None:
    pair = trial.scores.take("new" if row.version == trial.sides.new else "old", row.value)
    if pair is not None:
        trial.incumbent.update(pair[0] - pair[1])


async def _newest(connection: AsyncConnection) -> int:
    return int(await connection.scalar(select(func.max(_C.id))) or 0)


async def _new(connection: AsyncConnection, behind: int, newest: int, sides: Sides) -> Sequence[Row[Any]]:
    # An index on the adapter would be of no help: it leads to all of its observations, and not to the new ones.
    of_it = (_C.adapter + "" == sides.adapter, _C.scorer == sides.scorer, _C.id > behind, _C.id <= newest)
    query = select(_OBSERVATIONS).where(*of_it, or_(_tests(sides), _against(sides.new, BASE)))
    return (await connection.execute(query.order_by(_C.id).limit(MOST_AT_ONCE))).all()


def _tests(sides: Sides) -> ColumnElement[bool]:
    """The observations that tell the two versions apart."""
    if sides.paired:
        return or_(_against(sides.new, sides.old_name), _against(sides.old, sides.new_name))
    return or_(_against(sides.new, LEVEL), _against(sides.old, LEVEL))


def _against(version: int, what: str) -> ColumnElement[bool]:
    return and_(_C.version == version, _C.against == what)


async def _first_pairs(connection: AsyncConnection, rows: Sequence[Row[Any]], sides: Sides) -> dict[str, int]:
    """The first pair of each session: after a promotion it may have one more, the other way round."""
    names = {row.session for row in rows}
    of_them = (_C.session.in_(names), _C.adapter + "" == sides.adapter, _C.scorer == sides.scorer)
    query = select(_C.session, func.min(_C.id)).where(*of_them, _tests(sides)).group_by(_C.session)
    return {row[0]: row[1] for row in await connection.execute(query)}
