"""Feeds observations into the sequential tests, and decides when one of them has established something.

Observations are taken in the order of their ids. `monitors.judging.pairing` alone writes them, one transaction after
another, so none appears behind one that was taken. The tests' state, the decisions and the id of the last observation
are written in one transaction: after a restart the tests go on as if nothing had been, and nothing counts twice.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Row, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.decisions import record_decision
from monitors.judging.evidence import DifferenceEvidence, LevelEvidence
from monitors.judging.findings import Finding, decision
from monitors.judging.gauges import Key, QualityGauges
from monitors.judging.pairing import BASE, LEVEL
from monitors.judging.watched import WatchedTest, watched_test
from monitors.tables import EvidenceRow, MonitorCursorRow, ObservationRow
from monitors.watch.progress import cursor, move_cursor
from monitors.watch.work import Workshop
from monitors.webhooks.queue import enqueue
from registry.catalog import Catalog, Version
from registry.database import writing
from registry.monitoring import QualityRule

_BATCH = 1000
_ADAPTERS_AT_ONCE = 50
_OBSERVATIONS = ObservationRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_EVIDENCE = EvidenceRow.__table__  # type: ignore[attr-defined]
_CURSORS = MonitorCursorRow.__table__  # type: ignore[attr-defined]
_NAMES = ("adapter", "version", "scorer", "against")

Evidence: TypeAlias = LevelEvidence | DifferenceEvidence


@dataclass
class _Test:
    """A test as it stands in the database: its evidence, the last observation in it, and what that has established."""

    evidence: Evidence
    last: int = 0
    findings: list[tuple[Finding, dict[str, Any]]] = field(default_factory=list)


class QualityJob:
    """Keeps the tests of all versions up to date."""

    name = "quality"

    def __init__(self, workshop: Workshop) -> None:
        self.every_s = workshop.settings.score_every_s
        self._database = workshop.database
        self._gauges = QualityGauges(workshop.metrics)
        self._seen: dict[str, tuple[QualityRule, Version | None, WatchedTest | None]] = {}

    async def run(self, catalog: Catalog, now: datetime) -> None:
        """Take what is new; first have the tests follow rules that changed."""
        seen = {
            name: (adapter.monitoring.quality, adapter.stable, watched_test(adapter, adapter.deployment))
            for name, adapter in catalog.adapters.items()
        }
        changed = [name for name, what in seen.items() if self._seen.get(name) != what]
        for start in range(0, len(changed), _ADAPTERS_AT_ONCE):
            await self._adopt(changed[start : start + _ADAPTERS_AT_ONCE], catalog, now)
        self._seen = seen
        while await self._advance(catalog, now):
            pass
        self._gauges.forget_others(catalog)

    async def _adopt(self, adapters: list[str], catalog: Catalog, now: datetime) -> None:
        """Have all tests of these adapters follow their rules, and show them, as after a restart."""
        async with writing(self._database) as connection:
            await _hold(connection, now)
            tests = await _stored(connection, _EVIDENCE.c.adapter.in_(adapters))
            followed = {
                key: test
                for key, test in tests.items()
                if test.evidence.adopt(_rule(catalog, key), now, is_watched=_is_watched(catalog, key))
            }
            await _store(connection, followed, now)
        self._gauges.show(_summaries(tests), catalog)

    async def _advance(self, catalog: Catalog, now: datetime) -> bool:
        """Take the next observations; whether there were any."""
        if not await self._is_any_new():
            return False
        async with writing(self._database) as connection:
            position = await _hold(connection, now)
            query = select(_OBSERVATIONS).where(_OBSERVATIONS.c.id > position).order_by(_OBSERVATIONS.c.id)
            rows = list(await connection.execute(query.limit(_BATCH)))
            if not rows:
                return False
            known = [row for row in rows if row.adapter in catalog.adapters]
            tests = await _stored(connection, _EVIDENCE.c.adapter.in_({row.adapter for row in known}))
            touched = _feed(known, tests, catalog, now)
            await _store(connection, touched, now)
            for key, test in touched.items():
                for finding, summary in test.findings:
                    found = decision(*key, finding, summary, _rule(catalog, key))
                    number = await record_decision(connection, found, now)
                    await enqueue(connection, number, found, now)
            await move_cursor(connection, self.name, "", str(rows[-1].id))
        self._gauges.show(_summaries(touched), catalog)
        return True

    async def _is_any_new(self) -> bool:
        """Whether it is worth keeping others from writing."""
        async with self._database.connect() as connection:
            position = int(await cursor(connection, self.name, "") or 0)
            new = select(_OBSERVATIONS.c.id).where(_OBSERVATIONS.c.id > position).limit(1)
            return (await connection.execute(new)).first() is not None


def _summaries(tests: Mapping[Key, _Test]) -> dict[Key, dict[str, Any]]:
    return {key: test.evidence.summary() for key, test in tests.items()}


def _feed(rows: Iterable[Row[Any]], tests: Mapping[Key, _Test], catalog: Catalog, now: datetime) -> dict[Key, _Test]:
    """Give each observation to its test; the tests that got one."""
    touched: dict[Key, _Test] = {}
    for row in rows:
        key = (row.adapter, row.version, row.scorer, row.against)
        test = touched.get(key) or tests.get(key) or _begin(key, catalog, now)
        touched[key] = test
        if row.id > test.last:
            test.findings += [(finding, test.evidence.summary()) for finding in test.evidence.update(row.value)]
            test.last = row.id
    return touched


def _begin(key: Key, catalog: Catalog, now: datetime) -> _Test:
    rule = _rule(catalog, key)
    evidence = (LevelEvidence if key[3] == LEVEL else DifferenceEvidence).begin(rule.alpha)
    evidence.adopt(rule, now, is_watched=_is_watched(catalog, key))
    return _Test(evidence)


def _is_watched(catalog: Catalog, key: Key) -> bool:
    """Whether the quality rule watches this test.

    That may be the level, or the difference to the base, of any version; of differences between versions it is that
    between the stable one and the one before it.
    """
    rule = _rule(catalog, key)
    if key[2] != rule.scorer:
        return False
    if key[3] in (LEVEL, BASE):
        return rule.against == key[3]
    adapter = catalog.adapters[key[0]]
    test = watched_test(adapter, adapter.deployment)
    return test is not None and (test.version, test.against) == (key[1], key[3])


def _rule(catalog: Catalog, key: Key) -> QualityRule:
    return catalog.adapters[key[0]].monitoring.quality


async def _hold(connection: AsyncConnection, now: datetime) -> int:
    """The id of the last observation that was taken; nobody else takes any until this transaction has ended."""
    insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    first = insert(_CURSORS).values(job=QualityJob.name, subject="", position="0", updated_at=now)
    held = first.on_conflict_do_update(index_elements=["job", "subject"], set_={"updated_at": now})
    return int((await connection.execute(held.returning(_CURSORS.c.position))).scalar_one())


async def _stored(connection: AsyncConnection, which: Any) -> dict[Key, _Test]:
    tests = {}
    for row in await connection.execute(select(_EVIDENCE).where(which)):
        kind = LevelEvidence if row.against == LEVEL else DifferenceEvidence
        tests[row.adapter, row.version, row.scorer, row.against] = _Test(
            kind.from_state(row.state), row.last_observation
        )
    return tests


async def _store(connection: AsyncConnection, tests: Mapping[Key, _Test], now: datetime) -> None:
    insert: Any = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(_EVIDENCE)
    own = ("observations", "last_observation", "state", "updated_at")
    for key, test in tests.items():
        values = (test.evidence.count, test.last, test.evidence.state(), now)
        named = dict(zip(_NAMES, key, strict=True)) | dict(zip(own, values, strict=True))
        changed = {name: insert.excluded[name] for name in own}
        await connection.execute(insert.values(named).on_conflict_do_update(index_elements=_NAMES, set_=changed))
