"""A tuner that does one job alone, as in a pod: it takes that job or none, and its exit code says what came of it."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from registry.database import connect
from tests.conftest import until
from tests.tuner.fake_child import Script
from tests.tuner.shops import (
    GOOD,
    ask,
    end_lease,
    is_in,
    job_of,
    messages,
    shop_of,
    stages,
    state_of,
    tuner_settings,
    write,
)
from tuner import worker as worker_module
from tuner.app import create_tuner
from tuner.shop import Shop
from tuner.single import GIVEN_BACK, LOST, NOT_CLAIMED, NOT_THERE, exit_code
from tuner.worker import Worker

SLOW = Script(steps=400, step_s=0.05, checkpoint_every=5)


@pytest.fixture
def shop_with(tmp_path: Path, sqlite_template: Path) -> Any:
    """Makes shops on one SQLite database."""

    def make(script: Script = GOOD, **settings: Any) -> Shop:
        file = tmp_path / "ostler.db"
        if not file.exists():
            file.write_bytes(sqlite_template.read_bytes())
        url = f"sqlite:///{file}"
        return shop_of(tuner_settings(tmp_path, url, **settings), connect(url), script)

    return make


async def test_it_does_the_job_that_it_is_for(shop_with: Any) -> None:
    """Whatever waits longer; under the name that it was given, and it leaves nothing behind."""
    shop = shop_with(tuner_name="ostler-1-2")
    other, job_id = await ask(shop, "other"), await ask(shop)
    assert await Worker(shop, stages()).do(job_id) == "succeeded"
    assert await state_of(shop, job_id) == "succeeded"
    assert await state_of(shop, other) == "queued"
    assert not list(shop.settings.work.glob("ftjob-*"))
    assert [each.digest for each in await shop.events.checkpoints(job_id, limit=9)] == [None] * 4


async def test_a_job_that_its_gate_rejects_has_ended_too(shop_with: Any) -> None:
    """That is no failure of the tuner's: the job says what it is."""
    shop = shop_with()
    assert exit_code(await Worker(shop, stages(passed=False)).do(await ask(shop))) == 0


async def test_sigterm_gives_the_job_back(shop_with: Any) -> None:
    """With a checkpoint, from which another pod goes on."""
    shop = shop_with(SLOW)
    job_id = await ask(shop)
    worker = Worker(shop, stages())
    doing = asyncio.create_task(worker.do(job_id))
    await until(is_in(shop, job_id, "running"), 30)
    await until(lambda: shop.metrics.registry.get_sample_value("ostler_tuning_steps_total"), 30)
    worker.stop()
    assert await doing == "given_back"
    assert exit_code("given_back") == GIVEN_BACK
    job = await job_of(shop, job_id)
    assert (job.state, job.attempt, job.lease_until) == ("queued", 0, None)
    assert job.checkpoint is not None


async def test_what_broke_off_is_left_to_another(shop_with: Any) -> None:
    """Which is started when it is time; this one does not wait for that."""
    shop = shop_with(Script(dies_at=1), tuner_retry_s=600.0)
    job_id = await ask(shop)
    assert await Worker(shop, stages()).do(job_id) == "tried_again"
    assert exit_code("tried_again") == GIVEN_BACK
    assert await state_of(shop, job_id) == "queued"


async def test_a_job_that_was_lost_to_another_is_left_alone(shop_with: Any) -> None:
    """As when this machine was cut off for longer than its lease."""
    shop = shop_with(SLOW, tuner_lease_s=1.5)
    job_id = await ask(shop)
    doing = asyncio.create_task(Worker(shop, stages()).do(job_id))
    await until(is_in(shop, job_id, "running"), 30)
    await write(shop, job_id, worker="another")
    assert await asyncio.wait_for(doing, 30) == "lost"
    assert exit_code("lost") == LOST


@pytest.mark.parametrize(("wish", "state"), [("cancel", "cancelled"), ("pause", "paused")])
async def test_a_job_that_is_over_is_not_waited_for(shop_with: Any, wish: str, state: str) -> None:
    """It ended, or was paused, while the pod was being made."""
    shop = shop_with()
    job_id = await ask(shop)
    await shop.jobs.wish(job_id, wish, actor="ann")
    assert await Worker(shop, stages()).do(job_id) == state
    assert exit_code(state) == 0


async def test_a_job_that_is_not_there_to_take(shop_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another tuner has it, it is another base model's, or nobody knows it."""
    monkeypatch.setattr(worker_module, "_CLAIM_FOR_S", 0.1)
    shop, other = shop_with(), shop_with(base="other")
    job_id = await ask(shop)
    assert await Worker(other, stages()).do(job_id) == NOT_CLAIMED
    await shop.jobs.claim("another", bases=["tiny"], lease_s=60.0)
    assert await Worker(shop, stages()).do(job_id) == NOT_CLAIMED
    monkeypatch.setattr(worker_module, "_CLAIM_FOR_S", 600.0)
    assert await Worker(shop, stages()).do("ftjob-none") == NOT_CLAIMED
    assert exit_code(NOT_CLAIMED) == NOT_THERE


async def test_a_job_that_waits_for_another_moment_is_waited_for(shop_with: Any) -> None:
    """Clocks differ, and the lease of a tuner that was lost may have a second to go."""
    shop = shop_with()
    job_id = await ask(shop)
    await shop.jobs.claim("lost-1", bases=["tiny"], lease_s=600.0)
    doing = asyncio.create_task(Worker(shop, stages()).do(job_id))
    await asyncio.sleep(0)
    await end_lease(shop, job_id)
    assert await asyncio.wait_for(doing, 30) == "succeeded"
    assert "goes on with the job" in " ".join(await messages(shop, job_id))


async def test_it_waits_for_a_database_that_is_away(shop_with: Any, tmp_path: Path) -> None:
    """And stops at once when it is told to."""
    shop = shop_with()
    job_id = await ask(shop)
    (tmp_path / "ostler.db").rename(tmp_path / "away.db")
    shop = shop_with()
    (tmp_path / "ostler.db").write_bytes(b"")  # a database without a schema
    worker = Worker(shop_of(shop.settings, connect(shop.settings.database)), stages())
    doing = asyncio.create_task(worker.do(job_id))
    await until(lambda: worker.problem == "the database's schema is older than this program: run `ostler migrate`")
    worker.stop()
    assert await doing == "given_back"


async def test_its_page_leaves_the_outcome_and_tells_when_it_is_done(shop_with: Any) -> None:
    """So that the process can end with the right code."""
    shop = shop_with()
    done = asyncio.Event()
    app = create_tuner(shop.settings, "ftjob-none", done.set)
    async with app.lifespan():
        await asyncio.wait_for(done.wait(), 10)
    assert app.state.outcome == NOT_CLAIMED


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home of its own, and no settings of anybody else's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OSTLER_", "PET_"))}
    (tmp_path / "base").mkdir()
    return kept | {
        "OSTLER_HOME": str(tmp_path / "home"),
        "OSTLER_CACHE": str(tmp_path / "cache"),
        "OSTLER_BASE": "tiny",
        "OSTLER_BASE_MODEL": str(tmp_path / "base"),
        "OSTLER_API_KEY": "sk-any",
        "OSTLER_TUNER_PORT": "0",
    }


def test_the_command_ends_with_that_code(environment: dict[str, str], tmp_path: Path, sqlite_template: Path) -> None:
    """`ostler tuner --job ID`: also where the settings that it shares with its dispatcher name the other backend."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "ostler.db").write_bytes(sqlite_template.read_bytes())
    command = [sys.executable, "-m", "ostler", "tuner", "--job", "ftjob-none"]
    said = {"OSTLER_TUNER_BACKEND": "kubernetes"}
    ran = subprocess.run(command, env=environment | said, capture_output=True, text=True, check=False)
    assert ran.returncode == NOT_THERE, ran.stderr
    assert "Traceback" not in ran.stderr


_SLOW_START = """
import asyncio, runpy, sys
from uvicorn.lifespan.on import LifespanOn
start = LifespanOn.startup
async def slowly(self):
    await start(self)
    await asyncio.sleep(0.5)
LifespanOn.startup = slowly
sys.argv = ["ostler", "tuner", "--job", "ftjob-none"]
runpy.run_module("ostler", run_name="__main__")
"""


def test_a_job_that_is_over_before_its_page_is_there(
    environment: dict[str, str], tmp_path: Path, sqlite_template: Path
) -> None:
    """Ends the process no differently: on a busy machine the page may come last."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "ostler.db").write_bytes(sqlite_template.read_bytes())
    ran = subprocess.run(
        [sys.executable, "-c", _SLOW_START], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == NOT_THERE, ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_command_waits_for_its_database(environment: dict[str, str], tmp_path: Path) -> None:
    """Rather than to end, which would cost the job a pod; SIGTERM ends it."""
    command = [sys.executable, "-m", "ostler", "tuner", "--job", "ftjob-none"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        assert "it is tried again" in running.stderr.readline()
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) != 0
    assert not (tmp_path / "cache" / "tuner").exists()
