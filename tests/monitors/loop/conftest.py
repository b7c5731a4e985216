"""What tests of the controller share: a world with a gateway, and a tuner that ends jobs at once."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from registry.artifacts import ArtifactStore
from registry.database import connect
from registry.policies import Policy
from registry.tuning.jobs import Jobs
from tests.conftest import RunningGateway
from tests.monitors.loop.stories import ACTS, World, label

WORKER = "tuner-1"
Begin = Callable[..., Awaitable[str]]
Tuner = Callable[[str], Awaitable[None]]


@pytest.fixture
async def world(gateway: RunningGateway, tmp_path: Path) -> AsyncIterator[World]:
    """A monitor before the gateway."""
    settings = gateway.app.state.settings
    database = connect(settings.database)
    folder = tmp_path / "monitor"
    folder.mkdir()
    yield World(gateway.url, gateway.key, database, ArtifactStore(settings.artifacts, folder), folder)
    await database.dispose()


@pytest.fixture
def scales() -> Iterator[float]:
    """Other weights for each version."""
    return (1.0 + number / 64 for number in itertools.count())


@pytest.fixture
def begin(world: World, gateway: RunningGateway, scales: Iterator[float]) -> Begin:
    """Has a person promote version 1 of a new adapter, with labels, under a policy."""

    async def begun(name: str, policy: Policy = ACTS, versions: int = 1) -> str:
        for _ in range(versions):
            await gateway.push(name, next(scales))
        answer = await gateway.promote(name, 1)
        assert answer.status_code == 200, answer.text
        await gateway.registry.change_policy(name, lambda _: policy, actor="ann")
        await label(world.database, name)
        return name

    return begun


@pytest.fixture
def tuner(world: World, gateway: RunningGateway, scales: Iterator[float]) -> Tuner:
    """Ends the open job that there is with a version that its gate lets through."""
    jobs = Jobs(world.database)

    async def tune(name: str) -> None:
        job = await jobs.claim(WORKER, bases=["tiny"], lease_s=600)
        if job is None:
            return
        assert job.adapter == name
        folder = gateway.adapter_folder(next(scales))
        pushed = await gateway.registry.push(name, folder, actor="tuner", base="tiny", lineage={"dataset": "d" * 64})
        number = pushed.version.number
        await gateway.registry.judge(name, number, passed=True, report={"reason": "better"}, actor="tuner")
        await jobs.note(job.id, WORKER, version=number)
        await jobs.end(job.id, WORKER, "succeeded", "The job succeeded", fine_tuned_model=f"{name}@{number}")

    return tune
