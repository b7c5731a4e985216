"""A tuner with fake children and a fake gate, before a real database and store."""

import asyncio
import contextlib
import functools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.watch.client import GatewayClient
from registry.artifacts import ArtifactStore
from registry.database import writing
from registry.registry import Pushed, Registry
from registry.tuning.datasets import Datasets
from registry.tuning.events import Events
from registry.tuning.files import Files, NewFile
from registry.tuning.jobs import Asker, Jobs
from registry.tuning.orders import TuningOrder
from registry.tuning.tables import TuningJobRow
from tests.registry.lora_samples import BASE
from tests.tuner.fake_child import Script
from tuner.code_version import CodeVersion
from tuner.metrics import TunerMetrics
from tuner.settings import TunerSettings
from tuner.shop import AtWork, ChildCommand, Shop
from tuner.stages import STAGES, Stage, check_fitness, judge, register
from tuner.worker import Worker
from tuner.workspace import Task, Workspace

CONTENT = b'{"messages": []}\n'
GOOD = Script()
_JOBS = TuningJobRow.__table__  # type: ignore[attr-defined]
Pause = Callable[[str], Awaitable[None]]


async def no_pause(_place: str) -> None:
    """Goes on."""


class PausingRegistry(Registry):
    """Stops for a while right after what it has written."""

    pause: Pause = staticmethod(no_pause)

    async def push(self, *arguments: Any, **named: Any) -> Pushed:
        """Push, then pause."""
        pushed = await super().push(*arguments, **named)
        await self.pause("pushed")
        return pushed

    async def judge(self, *arguments: Any, **named: Any) -> None:
        """Judge, then pause."""
        await super().judge(*arguments, **named)
        await self.pause("judged")


def command_of(script: Script) -> ChildCommand:
    """How to start the fake child, as a shop is told."""
    said = msgspec.json.encode(script).decode()

    def command(_settings: TunerSettings, workspace: Workspace, _task: Task) -> Sequence[str]:
        return (sys.executable, "-m", "tests.tuner.fake_child", str(workspace.folder), said)

    return command


def tuner_settings(folder: Path, database_url: str, **given: Any) -> TunerSettings:
    """Settings of a tuner, quick enough for tests."""
    base_model = folder / "base"
    base_model.mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "home": folder / "home",
        "cache": folder / "cache",
        "database_url": database_url,
        "artifacts_url": str(folder / "artifacts"),
        "url": "http://127.0.0.1:9",
        "api_key": "secret",
        "base": "tiny",
        "base_model": str(base_model),
        "tuner_poll_s": 0.05,
        "tuner_lease_s": 60.0,
        "tuner_retry_s": 0.0,
        "tuner_stop_s": 10.0,
        "tuner_min_free_gib": 0.0,
    }
    return TunerSettings(**values | given)


def shop_of(
    settings: TunerSettings, database: AsyncEngine, script: Script = GOOD, pause: Pause = no_pause, **parts: Any
) -> Shop:
    """What a worker works with; `parts` in place of the usual ones."""
    store = ArtifactStore(settings.artifacts, settings.cache)
    registry = PausingRegistry(database, store, (BASE,))
    registry.pause = pause
    usual: dict[str, Any] = {
        "settings": settings,
        "jobs": Jobs(database),
        "events": Events(database),
        "files": Files(database, store),
        "datasets": Datasets(database),
        "registry": registry,
        "store": store,
        "gateway": GatewayClient(settings.url, settings.key, concurrency=2),
        "metrics": TunerMetrics(),
        "code": CodeVersion("0.1.0"),
        "child_command": command_of(script),
    }
    return Shop(**usual | parts)


def report_of(*, passed: bool) -> dict[str, Any]:
    """A gate's report."""
    return {"format": 1, "passed": passed, "reason": "all parts passed" if passed else "quality is not better"}


def stages(pause: Pause = no_pause, *, passed: bool = True) -> Mapping[str, Stage]:
    """The stages, with a fake engine to be fit for and a fake gate."""

    async def fit(_work: AtWork) -> None:
        await pause("fitness")

    async def lineage(work: AtWork) -> dict[str, Any]:
        await pause("lineage")
        return {"dataset": work.job.dataset, "job": work.job.id}

    async def gate(_work: AtWork, _number: int) -> dict[str, Any]:
        await pause("gate")
        return report_of(passed=passed)

    return {
        **STAGES,
        "fitness": functools.partial(check_fitness, require=fit),
        "registering": functools.partial(register, lineage=lineage),
        "evaluating": functools.partial(judge, gate=gate),
    }


@contextlib.asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[Worker]:
    """A worker at work beside the block, which is stopped in order."""
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await asyncio.wait_for(task, 30)


async def ask(shop: Shop, adapter: str = "support", content: bytes = CONTENT, **order: Any) -> str:
    """Upload a file and ask for a job; its id."""
    file = await shop.files.keep(NewFile("rows.jsonl", "fine-tune"), content, key_id="key_1")
    wanted = TuningOrder(adapter=adapter, base="tiny", training_file=file.id, **order)
    job, _ = await shop.jobs.create(wanted, "tiny", Asker("key_1", "ann"))
    return job.id


async def state_of(shop: Shop, job_id: str) -> str:
    """What became of a job."""
    return (await shop.jobs.find(job_id)).state


def is_in(shop: Shop, job_id: str, *states: str) -> Callable[[], Awaitable[bool]]:
    """A condition to wait for."""

    async def holds() -> bool:
        return await state_of(shop, job_id) in states

    return holds


async def messages(shop: Shop, job_id: str) -> list[str]:
    """What a job said, oldest first."""
    return [event.message for event in reversed(await shop.events.listed(job_id, limit=10_000))]


async def steps_told(shop: Shop, job_id: str) -> list[int]:
    """The steps that a job told of, in their order."""
    return [data["step"] for data in await shop.events.metrics(job_id) if "train_loss" in data]


async def job_of(shop: Shop, job_id: str) -> TuningJobRow:
    """A job's row."""
    return await shop.jobs.find(job_id)


async def end_lease(shop: Shop, job_id: str) -> None:
    """Have the lease of a tuner that is gone be over, rather than wait for it."""
    await write(shop, job_id, lease_until=datetime.now(UTC) - timedelta(seconds=1))


async def write(shop: Shop, job_id: str, **values: Any) -> None:
    """Write a job's row, whoever holds it."""
    async with writing(shop.events._engine) as connection:
        await connection.execute(update(_JOBS).where(_JOBS.c.id == job_id).values(**values))
