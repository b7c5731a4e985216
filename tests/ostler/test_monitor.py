"""`ostler monitor` and `ostler decisions`, as an operator calls them."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from monitors.decisions import Decision, record_decision
from tests.ostler.command import DONE, Cli
from tests.ports import free_port


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home of its own, and no settings of anybody else's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OSTLER_")}
    return kept | {"OSTLER_HOME": str(tmp_path / "home"), "OSTLER_CACHE": str(tmp_path / "cache")}


def command(*words: str) -> list[str]:
    """A command line."""
    return [sys.executable, "-m", "ostler", *words]


def test_without_a_schema_or_a_key_it_says_what_to_do(environment: dict[str, str]) -> None:
    """In one line, before it watches anything."""
    port = ("--port", str(free_port()))
    ran = subprocess.run(command("monitor", *port), env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].endswith("run `ostler migrate`")
    subprocess.run(command("migrate"), env=environment, check=True)
    ran = subprocess.run(command("monitor", *port), env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "set OSTLER_API_KEY" in ran.stderr


def test_it_serves_its_page_and_stops_in_order(environment: dict[str, str]) -> None:
    """SIGTERM ends it with 0."""
    subprocess.run(command("migrate"), env=environment, check=True)
    url = f"http://127.0.0.1:{free_port()}"
    running = subprocess.Popen(
        command("monitor", "--port", url.rpartition(":")[2], "--url", "http://127.0.0.1:9"),
        env=environment | {"OSTLER_API_KEY": "sk-any"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not is_active(url):
            assert running.poll() is None
            time.sleep(0.05)
        assert "ostler_monitor_active 1.0" in httpx.get(url + "/metrics").text
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
        assert running.stderr is not None
        assert "Traceback" not in running.stderr.read()
    finally:
        running.kill()
        running.wait()


def is_active(url: str) -> bool:
    """Whether the monitor there answers and holds the lease."""
    try:
        return bool(httpx.get(url + "/livez").json()["active"])
    except httpx.TransportError:
        return False


async def test_decisions_are_shown_with_their_reason(cli: Cli) -> None:
    """For people and for programs; of one adapter or of all."""
    assert (await cli("decisions")).out == "Nothing was concluded yet.\n"
    said = Decision("support", 2, "quality", "alarm", "e-CUSUM", "its mean fell to 0.5", {"mean": 0.5})
    async with cli.gateway.app.state.database.begin() as connection:
        await record_decision(connection, said, datetime.now(UTC))
    shown = await cli("decisions", "support")
    assert shown.code == DONE
    assert "quality: alarm" in shown.out
    assert "its mean fell to 0.5" in shown.out
    (found,) = (await cli("decisions", "--json")).json["data"]
    assert (found["adapter"], found["version"], found["inputs"]) == ("support", 2, {"mean": 0.5})
    assert (await cli("decisions", "other", "--json")).json == {"data": [], "has_more": False}
