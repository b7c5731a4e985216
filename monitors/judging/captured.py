"""What is captured of requests: the answers that clients got, their shadows, and what should have been answered.

A request id may be its client's choice, and so the same for all of the client's requests. One that was used too often
says nothing of which shadow belongs to which answer, so its shadows are left out, and nobody reads all of its text.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.judging.pairing import OWN_VARIANTS, SHADOW
from monitors.tables import CaptureRow, FeedbackRow

MOST_OF_ONE_ID = 10
"""Captures, own and shadows, up to which those of one request id are told apart."""
_IDS_AT_ONCE = 50
_CAPTURES = CaptureRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_FEEDBACK = FeedbackRow.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class CapturedRequests:
    """What is captured and corrected of some requests.

    Attributes:
        captures: the answers that were asked for, and with them the other answers to their requests.
        of_requests: the same by request id; ids that were used too often are not in it.
        corrections: the answer that should have been, by the record that it was said of.
    """

    captures: Sequence[Row[Any]] = ()
    of_requests: Mapping[str, Sequence[Row[Any]]] = field(default_factory=dict)
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
        found = [
            row.id
            for row in self.of_requests.get(capture.request_id, ())
            if row.adapter == capture.adapter and row.variant in OWN_VARIANTS and row.prompt == capture.prompt
        ]
        return found[0] if len(found) == 1 else None


async def captured_requests(
    connection: AsyncConnection, asked: Sequence[Row[Any]], request_ids: Collection[str]
) -> CapturedRequests:
    """What is captured of these requests, and the captures `asked` themselves, with all that was corrected."""
    of_requests = await captures_of(connection, request_ids)
    found = {row.id: row for rows in of_requests.values() for row in rows}
    found |= {row.id: row for row in asked if row.variant != SHADOW}
    captures = sorted(found.values(), key=lambda row: (row.created_at, row.id))
    return CapturedRequests(captures, of_requests, await _corrections(connection, found))


async def captures_of(connection: AsyncConnection, request_ids: Collection[str]) -> dict[str, list[Row[Any]]]:
    """All captures of each request id, as they came; none of an id that was used more than `MOST_OF_ONE_ID` times."""
    found: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    ids = sorted(request_ids)
    for start in range(0, len(ids), _IDS_AT_ONCE):
        some = ids[start : start + _IDS_AT_ONCE]
        of_one = (select(_CAPTURES).where(_CAPTURES.c.request_id == each).limit(MOST_OF_ONE_ID + 1) for each in some)
        for row in await connection.execute(union_all(*(each.subquery().select() for each in of_one))):
            found[row.request_id].append(row)
    return {
        request_id: sorted(rows, key=lambda row: (row.created_at, row.id))
        for request_id, rows in found.items()
        if len(rows) <= MOST_OF_ONE_ID
    }


async def captures_by_id(connection: AsyncConnection, records: Collection[str]) -> Sequence[Row[Any]]:
    """What was captured under these ids."""
    return (await connection.execute(select(_CAPTURES).where(_CAPTURES.c.id.in_(records)))).all()


async def _corrections(connection: AsyncConnection, records: Collection[str]) -> dict[str, str]:
    """The first correction of each record; there are at most some thousand records."""
    columns = _FEEDBACK.c
    said = select(columns.record_id, columns.correction).order_by(columns.created_at.desc(), columns.id.desc())
    said = said.where(columns.record_id.in_(records), columns.correction.is_not(None))
    return {row.record_id: row.correction for row in await connection.execute(said)}
