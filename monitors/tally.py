"""Decisions as they come, each once, so that whoever counts all that there are need not read them again and again."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.tables import DecisionRow

PAGE = 1000
"""Decisions that are read at once."""
LATE = 100
"""Ids are given before a transaction ends: a decision may appear after so many with larger ids."""
_DECISIONS = DecisionRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model


class NewDecisions:
    """Reads each decision once: at first all there are, and then what came since."""

    def __init__(self) -> None:
        self._newest: list[int] = []

    async def pages(self, connection: AsyncConnection) -> AsyncIterator[Sequence[Row[Any]]]:
        """What was not read before: id, adapter, kind, outcome, created_at, and act and cycle of its inputs, as text.

        A page that is given counts as read, whatever becomes of it.
        """
        last = self._newest[0] if len(self._newest) == LATE else 0
        while True:
            page = (await connection.execute(_after(last))).all()
            known = set(self._newest)
            self._newest = sorted(known | {row.id for row in page})[-LATE:]
            yield [row for row in page if row.id not in known]
            if len(page) < PAGE:
                return
            last = page[-1].id


def _after(last: int) -> Any:
    columns = _DECISIONS.c
    said = [columns.inputs[name].as_string().label(name) for name in ("act", "cycle")]
    query = select(columns.id, columns.adapter, columns.kind, columns.outcome, columns.created_at, *said)
    return query.where(columns.id > last).order_by(columns.id).limit(PAGE)
