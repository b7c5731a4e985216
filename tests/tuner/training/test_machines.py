"""Two machines train one adapter for real: a worker here, and `ostler tuner --job` as the second one.

Each has its own cache, as pods have; they meet in the database, in the store and at the first one's address.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from demo import BASE_DIR, BASE_NAME
from demo.tickets import training
from registry.artifacts import ArtifactStore
from registry.database import connect
from registry.registry import Registry
from registry.tuning.files import NewFile
from registry.tuning.jobs import Asker
from tests.conftest import until
from tests.ports import free_port
from tests.tuner.shops import job_of, messages, shop_of, stages, steps_told, tuner_settings
from tests.tuner.training.samples import BASE, order
from tuner.launching import child_command
from tuner.shop import Shop
from tuner.single import GIVEN_BACK
from tuner.worker import Worker

NAME = "ostler-1-2"


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """Where the machines meet; this process is the first of them."""
    found = free_port()
    told = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": str(found)}
    for name, value in told.items():
        monkeypatch.setenv(f"PET_{name}", value)
    return found


@pytest.fixture
def shop(tmp_path: Path, sqlite_template: Path) -> Shop:
    """What the first machine works with: real children, a fake engine and gate."""
    file = tmp_path / "ostler.db"
    file.write_bytes(sqlite_template.read_bytes())
    settings = tuner_settings(
        tmp_path,
        f"sqlite:///{file}",
        base=BASE_NAME,
        base_model=str(BASE_DIR),
        tuner_name=NAME,
        tuner_threads=1,
        tuner_device="cpu",
        tuner_stop_s=60.0,
    )
    database = connect(settings.database)
    registry = Registry(database, ArtifactStore(settings.artifacts, settings.cache), (BASE,))
    return shop_of(settings, database, child_command=child_command, registry=registry)


async def asked(shop: Shop) -> str:
    """A job on tickets of the demo."""
    rows = [
        {"messages": [{"role": "user", "content": each.message}, {"role": "assistant", "content": each.answer}]}
        for each in training(80, 5)
    ]
    content = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    file = await shop.files.keep(NewFile("rows.jsonl", "fine-tune"), content, key_id="key_1")
    wanted = order(training_file=file.id, epochs=2, checkpoints=2)
    job, _ = await shop.jobs.create(wanted, BASE_NAME, Asker("key_1", "ann"))
    return job.id


@contextlib.asynccontextmanager
async def second_machine(folder: Path, job_id: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    """The second machine, beside the block; its environment is this process', where it does not say otherwise."""
    settings = {
        "OSTLER_HOME": str(folder / "second"),
        "OSTLER_CACHE": str(folder / "second" / "cache"),
        "OSTLER_DATABASE_URL": f"sqlite:///{folder / 'ostler.db'}",
        "OSTLER_ARTIFACTS_URL": str(folder / "artifacts"),
        "OSTLER_BASE": BASE_NAME,
        "OSTLER_BASE_MODEL": str(BASE_DIR),
        "OSTLER_API_KEY": "secret",
        "OSTLER_TUNER_NAME": NAME,
        "OSTLER_TUNER_DEVICE": "cpu",
        "OSTLER_TUNER_THREADS": "1",
        "OSTLER_TUNER_POLL_S": "0.1",
        "PET_NODE_RANK": "1",
    }
    command = [sys.executable, "-m", "ostler", "tuner", "--job", job_id]
    process = subprocess.Popen(command, env=os.environ | settings)  # noqa: ASYNC220 - it takes a moment
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.engine
@pytest.mark.usefixtures("port")
async def test_two_machines_train_one_adapter(tmp_path: Path, shop: Shop) -> None:
    """One that is told to stop stops both after a step, with a checkpoint; from there two others take it to its end."""
    job_id = await asked(shop)
    async with second_machine(tmp_path, job_id) as second:
        doing = asyncio.create_task(Worker(shop, stages()).do(job_id))

        async def has_stepped() -> bool:
            return doing.done() or len(await steps_told(shop, job_id)) > 1

        await until(has_stepped, 200)
        second.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(doing, 100) == "tried_again"
        assert await asyncio.to_thread(second.wait, 60) == GIVEN_BACK
    assert (await job_of(shop, job_id)).checkpoint is not None
    told = await steps_told(shop, job_id)
    async with second_machine(tmp_path, job_id) as second:
        assert await asyncio.wait_for(Worker(shop, stages()).do(job_id), 250) == "succeeded"
        assert await asyncio.to_thread(second.wait, 60) == 0
    said = await messages(shop, job_id)
    assert f"Training goes on from the checkpoint of step {told[-1]}" in said
    steps = await steps_told(shop, job_id)
    assert steps == list(range(1, steps[-1] + 1))
    assert steps[-1] > told[-1]
    assert not [line for line in said if "Training failed" in line]
    assert not list((tmp_path / "second" / "cache" / "tuner").glob("*"))
