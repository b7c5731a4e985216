"""Writes the data file of today's schema: what Ostler's own functions write, and a row of every other table."""

import asyncio
import json
import sqlite3
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Column, Connection, MetaData, Table, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

import monitors.tables  # noqa: F401 - its tables are written, too
from monitors.decisions import Decision, record_decision
from monitors.log.feedback import Reference, Said, add_feedback, find_answered
from monitors.log.recorder import Recorder
from monitors.metrics import Metrics
from monitors.record import Text
from registry.artifacts import ArtifactStore
from registry.catalog import Canary, KeyLimits, Scope, Shadow
from registry.database import SCHEMA_VERSION, connect, migrate, writing
from registry.deployments import Patch
from registry.monitoring import Monitoring
from registry.registry import Registry
from registry.tuning.files import Files, NewFile
from registry.tuning.jobs import Asker, Jobs
from registry.tuning.orders import TuningOrder
from tests.monitors.records import record
from tests.registry.lora_samples import BASE, safetensors_bytes, tensors, write_adapter
from tests.registry.written import FOLDER

NOON = datetime(2026, 11, 3, 12, tzinfo=UTC)
BODY = {"messages": [{"role": "user", "content": "it's 100% \\ broken: \u00e9"}]}
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "{}"}}]}


async def main() -> None:
    """Fill a database of today's schema, and write down what is in it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ostler.db"
        engine = connect(f"sqlite:///{file}")
        await migrate(engine)
        await fill(engine, Path(folder))
        async with engine.connect() as connection:
            names = [table.name for table in await connection.run_sync(_tables)]
        await engine.dispose()
        (FOLDER / f"{SCHEMA_VERSION}.sql").write_text("".join(f"{line}\n" for line in dumped(file, names)))


async def fill(engine: AsyncEngine, folder: Path) -> None:
    """Do what leaves rows in each room's tables."""
    registry = Registry(engine, ArtifactStore(str(folder / "store"), folder / "cache"), (BASE,))
    await _keys(registry)
    await _deployments(registry, folder)
    await _rules(registry)
    await _requests(engine)
    await _tuning(engine, registry.store)
    async with engine.begin() as connection:
        await connection.run_sync(fill_the_rest)


async def _keys(registry: Registry) -> None:
    await registry.create_key("boss", scopes=frozenset({Scope.ADMIN}), actor="ann")
    limits = KeyLimits(60, 9000, 4, 12.5)
    only = frozenset({"support"})
    client = frozenset({Scope.INFERENCE, Scope.FEEDBACK})
    team, _ = await registry.create_key("team", scopes=client, adapters=only, limits=limits, actor="ann")
    for _ in range(2):
        await registry.rotate_key(team.id, overlap=timedelta(days=1), actor="bob")
    await registry.create_key("prometheus", scopes=frozenset({Scope.METRICS}), actor="ann")
    gone, _ = await registry.create_key("gone", scopes=client, expires_at=NOON, actor="ann")
    await registry.revoke_key(gone.id, actor="ann")


async def _deployments(registry: Registry, folder: Path) -> None:
    """Three versions, of which the first is archived; version 2 serves, and version 3 a tenth of the sessions."""
    for scale in (1.0, 2.0, 3.0):
        weights = {name: (value * scale).astype(value.dtype) for name, value in tensors().items()}
        made = write_adapter(folder / str(scale), weights=safetensors_bytes(weights))
        await registry.push("support", made, actor="ann", note=f"it's {scale}")
    await registry.promote("support", 1, actor="ann", reason="first")
    await registry.promote("support", 2, actor="ann")
    await registry.promote("support", 3, actor="bob")
    await registry.rollback("support", actor="ann", reason="worse")
    patch = Patch(canary=Canary(3, 0.1), shadow=Shadow(None, 0.05), fallback=("base",))
    await registry.change("support", patch, actor="ann", reason="again")
    await registry.archive_version("support", 1, archived=True, actor="ann")


async def _rules(registry: Registry) -> None:
    await registry.set_monitoring("support", Monitoring(capture=0.5), actor="ann")
    await registry.change_policy("support", lambda old: msgspec.structs.replace(old, mode="act"), actor="ann")
    await registry.stop("support", actor="ann", reason="holidays")
    await registry.acquire_lease("monitor", "one", 60.0)
    await registry.share_use("one", {"support@2": 3.0})


async def _requests(engine: AsyncEngine) -> None:
    recorder = Recorder(engine, Metrics(), size=100)
    text = Text(json.dumps(BODY).encode(), json.dumps(ANSWER).encode())
    for number in range(3):
        recorder(record(f"req-{number}", session="s" * 24, pool="tiny", text=text, cost=0.1))
    assert await recorder.drain(30) == 0
    answered = await find_answered(engine, Reference("req-1"))
    assert answered is not None
    said = Said(thumb="down", comment="it's wrong", correction='{"intent": "refund"}')
    await add_feedback(engine, answered, said, key_id="key-1", now=NOON)
    decision = Decision("support", 2, "quality", "alarm", "feedback fell by 0.05", "it fell", {"scores": [0.5, None]})
    async with writing(engine) as connection:
        await record_decision(connection, decision, NOON)


async def _tuning(engine: AsyncEngine, store: ArtifactStore) -> None:
    file = await Files(engine, store).keep(NewFile("tickets.jsonl", "fine-tune"), b"{}\n", key_id="key-1", actor="ann")
    jobs = Jobs(engine)
    await jobs.create(TuningOrder("support", "tiny", file.id, seed=7), "tiny", Asker("key-1", "ann"))
    await jobs.claim("one", bases=["tiny"], lease_s=60.0)


def fill_the_rest(connection: Connection) -> None:
    """Give every table a row that has none, with values that only its columns' types ask for."""
    for table in _tables(connection):
        if connection.execute(select(func.count()).select_from(table)).scalar_one() == 0:
            values = {column.name: _value(column) for column in table.columns if not column.foreign_keys}
            values |= {
                column.name: connection.execute(select(key.column).limit(1)).scalar_one()
                for column in table.columns
                for key in column.foreign_keys
            }
            connection.execute(table.insert().values(values))


def _tables(connection: Connection) -> list[Table]:
    found = MetaData()
    found.reflect(connection)
    return [table for table in found.sorted_tables if table.name != "alembic_version"]


def _value(column: Column[Any]) -> Any:
    of_type: dict[str, Any] = {"DATETIME": NOON, "BOOLEAN": True, "FLOAT": 0.5, "JSON": {"a": [1, "\u00e9"]}}
    kind = str(column.type).partition("(")[0]
    return of_type.get(kind, 1 if kind in ("INTEGER", "BIGINT") else "x")


def dumped(file: Path, tables: list[str]) -> list[str]:
    """The statements that put a database's rows into empty tables of the same schema."""
    connection = sqlite3.connect(file)
    lines = [line for table in tables for line in _rows(connection, table)]
    connection.close()
    return ['DELETE FROM "change_counter"', *lines]


def _rows(connection: sqlite3.Connection, table: str) -> list[str]:
    columns = [(row[1], row[2]) for row in connection.execute(f'PRAGMA table_info("{table}")')]
    listed = ", ".join(f'"{name}"' for name, _ in columns)
    rows = connection.execute(f'SELECT {listed} FROM "{table}" ORDER BY 1, 2')
    return [
        f'INSERT INTO "{table}" ({listed}) VALUES ({", ".join(map(_literal, row, [kind for _, kind in columns]))})'
        for row in rows
    ]


def _literal(value: Any, kind: str) -> str:
    if value is None:
        return "NULL"
    if kind == "BOOLEAN":
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        assert "\n" not in value
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


if __name__ == "__main__":
    asyncio.run(main())
