"""The tuner as its operators see it: alive, ready, and its metrics."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.conftest import until
from tests.ports import free_port
from tests.tuner.shops import tuner_settings
from tuner.app import create_tuner
from tuner.settings import TunerSettings


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> TunerSettings:
    """Settings of a tuner whose gateway does not answer."""
    return tuner_settings(tmp_path, database_url)


@contextlib.asynccontextmanager
async def client_of(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a tuner that runs."""
    async with (
        app.lifespan(),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tuner") as client,
    ):
        yield client


async def test_a_tuner_is_alive_and_ready_and_shows_its_metrics(settings: TunerSettings, database: AsyncEngine) -> None:
    """Ready once the database has answered; its counters stand at 0."""
    assert database is not None
    async with client_of(create_tuner(settings)) as client:
        await until(lambda: _answers(client, "/readyz", 200))
        assert (await client.get("/livez")).json() == {"status": "ok", "problems": []}
        assert "ostler_tuning_steps_total 0.0" in (await client.get("/metrics")).text


async def test_a_tuner_before_an_old_schema_says_so(settings: TunerSettings, database: AsyncEngine) -> None:
    """Rather than that the database does not answer; and it goes on once that is migrated."""
    async with client_of(create_tuner(settings)) as client:
        await until(lambda: _answers(client, "/readyz", 200))
        for name, status in (("wanted TO gone", 503), ("gone TO wanted", 200)):
            async with database.begin() as connection:
                await connection.execute(text(f"ALTER TABLE tuning_jobs RENAME COLUMN {name}"))
            await until(lambda status=status: _answers(client, "/readyz", status))  # type: ignore[misc]
            if status == 503:
                (problem,) = (await client.get("/readyz")).json()["problems"]
                assert problem == "the database's schema is older than this program: run `ostler migrate`"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_tuner_whose_worker_has_ended_asks_for_its_restart(
    settings: TunerSettings, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever watches /livez then starts it anew."""
    assert database is not None

    async def end(_self: object) -> None:
        raise RuntimeError("ended")

    monkeypatch.setattr("tuner.worker.Worker.run", end)
    async with client_of(create_tuner(settings)) as client:
        await until(lambda: _answers(client, "/livez", 503))


@pytest.mark.parametrize(
    ("without", "says"),
    [({"api_key": ""}, "OSTLER_API_KEY"), ({"base": ""}, "OSTLER_BASE"), ({"base_model": ""}, "OSTLER_BASE_MODEL")],
)
def test_what_a_tuner_needs_is_said_before_it_works(tmp_path: Path, without: dict[str, str], says: str) -> None:
    """In a word that names the setting."""
    with pytest.raises(ValueError, match=says):
        create_tuner(tuner_settings(tmp_path, "", **without))


async def _answers(client: httpx.AsyncClient, path: str, status: int) -> bool:
    return (await client.get(path)).status_code == status


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home of its own, and no settings of anybody else's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OSTLER_")}
    (tmp_path / "base").mkdir()
    return kept | {
        "OSTLER_HOME": str(tmp_path / "home"),
        "OSTLER_CACHE": str(tmp_path / "cache"),
        "OSTLER_BASE": "tiny",
        "OSTLER_BASE_MODEL": str(tmp_path / "base"),
        "OSTLER_API_KEY": "sk-any",
    }


def test_the_command_serves_its_page_and_stops_in_order(environment: dict[str, str]) -> None:
    """`ostler tuner`: without a schema it says what to do; SIGTERM ends it with 0, and it has imported no torch."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "ostler", "tuner", "--port", url.rpartition(":")[2]]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].endswith("run `ostler migrate`")
    subprocess.run([sys.executable, "-m", "ostler", "migrate"], env=environment, check=True)
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as running:
        try:
            while not is_ready(url):
                assert running.poll() is None
                time.sleep(0.05)
            maps = Path(f"/proc/{running.pid}/maps").read_text()
            assert "libtorch" not in maps
            running.send_signal(signal.SIGTERM)
            assert running.wait(30) == 0
            assert running.stderr is not None
            assert "Traceback" not in running.stderr.read()
        finally:
            running.kill()


def test_the_command_names_a_base_model_that_is_not_there(environment: dict[str, str]) -> None:
    """Before it does anything else."""
    command = [sys.executable, "-m", "ostler", "tuner", "--base-model", "/no/such/folder"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "there is no folder /no/such/folder of the base model tiny" in ran.stderr


def is_ready(url: str) -> bool:
    """Whether the tuner there answers and has the database."""
    try:
        return httpx.get(url + "/readyz").status_code == 200
    except httpx.TransportError:
        return False
