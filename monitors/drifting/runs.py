"""Looks at drift as the database keeps them: asked for, stored with what follows from them, and listed."""

import secrets
from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Row, Table, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.decisions import Decision, record_decision
from monitors.tables import DriftCalibrationRow, DriftRunRow, MonitorWindowRow
from monitors.watch.progress import claim_window, cursor, move_cursor

Outcome = Literal["drift", "no_drift", "not_enough_data", "failed"]

JOB = "drift"
_ASKED = "drift_asked"
KEPT = timedelta(days=365)
"""So long looks are kept; the newest of a version, and those with a report, for longer."""
_OVERLAP = timedelta(hours=1)
_JUDGED = ("drift", "no_drift")
_RUNS: Table = DriftRunRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_CALIBRATIONS: Table = DriftCalibrationRow.__table__  # type: ignore[attr-defined]
_WINDOWS: Table = MonitorWindowRow.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class DriftRun:
    """What a look found, as `monitors.tables.DriftRunRow` keeps it.

    Attributes:
        columns: the verdicts of the columns that were judged.
        missing: what lacked, or what went wrong, in words.
        report: the HTML report's digest.
    """

    adapter: str
    version: int
    window_start: datetime | None
    window_end: datetime
    rows: int
    reference_rows: int
    reference: str
    outcome: Outcome
    missing: str | None = None
    columns: tuple[Mapping[str, Any], ...] = ()
    report: str | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Distributions of statistics without drift, by column, of the reference with that fingerprint."""

    window_rows: int
    reference: str
    columns: Mapping[str, Any]


async def ask_for_look(connection: AsyncConnection, adapter: str, now: datetime) -> None:
    """Have the monitor look at an adapter's traffic as soon as it can."""
    await move_cursor(connection, _ASKED, adapter, now.isoformat())


async def asked_for(connection: AsyncConnection, adapter: str) -> str:
    """The mark of a look that was asked for and not done; empty if there is none."""
    return await cursor(connection, _ASKED, adapter) or ""


async def answer_look(connection: AsyncConnection, adapter: str, mark: str) -> None:
    """Take the mark away, unless a look was asked for again since."""
    if await asked_for(connection, adapter) == mark:
        await move_cursor(connection, _ASKED, adapter, "")


async def is_done(connection: AsyncConnection, adapter: str, version: int, end: datetime) -> bool:
    """Whether the window that ends there has been looked at."""
    columns = _WINDOWS.c
    query = select(columns.job).where(
        columns.job == JOB, columns.subject == _subject(adapter, version), columns.window == end.isoformat()
    )
    return (await connection.execute(query)).first() is not None


async def store_run(
    connection: AsyncConnection, run: DriftRun, rule: str, calibration: Calibration | None, now: datetime
) -> bool:
    """Store a look, and the decision where drift begins or ends with it, in the transaction; False if it is done.

    `rule` says by which rule it was judged, with its numbers.
    """
    subject = _subject(run.adapter, run.version)
    if not await claim_window(connection, JOB, subject, run.window_end.isoformat(), run.outcome):
        return False
    if run.outcome in ("drift", "no_drift"):
        before = await _last_verdict(connection, run.adapter, run.version)
        if (run.outcome == "drift") is not (before == "drift"):
            await record_decision(connection, _turn(run, rule), now)
    values = {name: getattr(run, name) for name in DriftRun.__slots__}
    values |= {"columns": [dict(each) for each in run.columns], "id": _run_id(now), "created_at": now}
    await connection.execute(_RUNS.insert().values(**values))
    if calibration is not None:
        await _store_calibration(connection, run, calibration, now)
    return True


async def calibration_of(
    connection: AsyncConnection, adapter: str, version: int, window_rows: int, reference: str
) -> Mapping[str, Any]:
    """The distributions found for this reference and this size of window before, by column; empty if there are none."""
    columns = _CALIBRATIONS.c
    query = select(columns.columns).where(
        columns.adapter == adapter,
        columns.version == version,
        columns.window_rows == window_rows,
        columns.reference == reference,
    )
    return (await connection.execute(query)).scalar_one_or_none() or {}


class NewestRuns:
    """The newest look at each adapter's version, as far as it was read: all at first, then only what came since.

    A while of what was read is read again, for another monitor's looks may come late.
    """

    def __init__(self) -> None:
        self._read_at: datetime | None = None
        self.by_version: dict[tuple[str, int], Row[Any]] = {}

    async def read(self, connection: AsyncConnection, now: datetime) -> None:
        """Read what is new."""
        wanted = (
            _RUNS.c.id.in_(select(func.max(_RUNS.c.id)).group_by(_RUNS.c.adapter, _RUNS.c.version))
            if self._read_at is None
            else _RUNS.c.id >= _moment(self._read_at - _OVERLAP)
        )
        for row in await connection.execute(select(_RUNS).where(wanted).order_by(_RUNS.c.id)):
            self.by_version[row.adapter, row.version] = row
        self._read_at = now


async def list_runs(
    connection: AsyncConnection, adapter: str, *, before: str | None = None, limit: int = 100
) -> list[Row[Any]]:
    """Looks at an adapter, newest first; with ids below `before` where that is given."""
    query = select(_RUNS).where(_RUNS.c.adapter == adapter).order_by(_RUNS.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(_RUNS.c.id < before)
    return list(await connection.execute(query))


async def find_run(connection: AsyncConnection, id: str) -> Row[Any] | None:
    """The look of that id; None if there is none."""
    return (await connection.execute(select(_RUNS).where(_RUNS.c.id == id))).first()


async def drop_reports(connection: AsyncConnection, adapter: str, kept: int) -> list[str]:
    """Forget all but an adapter's newest reports; the digests that no look refers to any more, which can be deleted."""
    held = select(_RUNS.c.id, _RUNS.c.report).where(_RUNS.c.adapter == adapter, _RUNS.c.report.is_not(None))
    old = list(await connection.execute(held.order_by(_RUNS.c.id.desc()).offset(kept)))
    if old:
        forgotten = update(_RUNS).where(_RUNS.c.id.in_([row.id for row in old]))
        await connection.execute(forgotten.values(report=None))
    return await unheld(connection, {row.report for row in old})


async def unheld(connection: AsyncConnection, digests: Set[str]) -> list[str]:
    """Those reports that no look refers to."""
    found = await connection.execute(select(_RUNS.c.report).where(_RUNS.c.report.in_(digests)))
    return sorted(digests - set(found.scalars()))


async def drop_runs(connection: AsyncConnection, adapter: str, now: datetime) -> None:
    """Delete an adapter's looks of more than a year ago, but for the newest of each version and those with a report."""
    columns = _RUNS.c
    newest = select(func.max(columns.id)).where(columns.adapter == adapter).group_by(columns.version)
    old = (columns.adapter == adapter) & (columns.created_at < now - KEPT) & columns.report.is_(None)
    await connection.execute(delete(_RUNS).where(old, columns.id.not_in(newest)))


def _subject(adapter: str, version: int) -> str:
    return f"{adapter}@{version}"


def _run_id(now: datetime) -> str:
    """Later looks have larger ids."""
    return f"{_moment(now)}{secrets.token_hex(8)}"


def _moment(now: datetime) -> str:
    """How the ids of that moment's looks begin."""
    return f"{int(now.timestamp() * 1e6):016x}"


async def _last_verdict(connection: AsyncConnection, adapter: str, version: int) -> str | None:
    query = select(_RUNS.c.outcome).where(
        _RUNS.c.adapter == adapter, _RUNS.c.version == version, _RUNS.c.outcome.in_(_JUDGED)
    )
    last: str | None = (await connection.execute(query.order_by(_RUNS.c.id.desc()).limit(1))).scalar_one_or_none()
    return last


def _turn(run: DriftRun, rule: str) -> Decision:
    """Drift has begun, or is over."""
    drifted = [each for each in run.columns if each["drifted"]]
    what = ", ".join(f"{each['name']} ({each['statistic']:.3g}, threshold {each['threshold']:.3g})" for each in drifted)
    reason = f"the newest {run.rows:,} requests differ from the reference in {what}"
    if not drifted:
        reason = f"the newest {run.rows:,} requests do not differ from the reference any more"
    inputs = {"rows": run.rows, "reference_rows": run.reference_rows, "columns": [dict(each) for each in run.columns]}
    return Decision(run.adapter, run.version, "drift", run.outcome, rule, reason, inputs)


async def _store_calibration(connection: AsyncConnection, run: DriftRun, found: Calibration, now: datetime) -> None:
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    key = {"adapter": run.adapter, "version": run.version, "window_rows": found.window_rows}
    values = {"reference": found.reference, "columns": dict(found.columns), "created_at": now}
    statement = insert(_CALIBRATIONS).values(**key, **values)
    await connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=values))
