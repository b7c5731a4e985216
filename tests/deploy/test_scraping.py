"""Compose's Prometheus before a gateway that it reaches from another address, with the key that Compose makes."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import yaml  # type: ignore[import-untyped]

from tests.conftest import RunningGateway, until
from tests.deploy.test_compose import ROOT, env_file
from tests.helm.tools import RULES, Json, prometheus_with

# An address of this machine that is not 127.0.0.1, so the gateway asks for a key; every Linux has it.
_ELSEWHERE = "127.0.0.6"


@contextlib.asynccontextmanager
async def reached_from_elsewhere(gateway: RunningGateway) -> AsyncIterator[str]:
    """A host:port whose connections reach the gateway from another address."""
    port = urlsplit(gateway.url).port

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", port, local_addr=(_ELSEWHERE, 0))
        await asyncio.gather(pipe(reader, there[1]), pipe(there[0], writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def ensure_as_compose_does(gateway: RunningGateway, key: Path) -> None:
    """Run what `migrate` of compose.yaml runs for Prometheus' key."""
    script = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["migrate"]["command"][0]
    at = script.index("METRICS_KEY=")
    line = script[at:].replace("$$", "$").replace("/run/secrets/metrics-key", str(key))
    subprocess.run(
        ["sh", "-euc", line.replace("ostler keys", f"{sys.executable} -m ostler keys")],
        env={**os.environ, "OSTLER_HOME": str(gateway.app.state.settings.home)},
        check=True,
        capture_output=True,
    )


def configuration(address: str, key: Path) -> Json:
    """deploy/compose/prometheus.yml with the gateway's address and files of this machine, and it alone to scrape."""
    text = (ROOT / "deploy/compose/prometheus.yml").read_text()
    for there, here in (
        ("gateway:8080", address),
        ("/run/secrets/metrics-key", str(key)),
        ("/etc/prometheus/rules", str(RULES)),
        ("15s", "1s"),
    ):
        assert there in text
        text = text.replace(there, here)
    found: Json = yaml.safe_load(text)
    found["scrape_configs"] = [job for job in found["scrape_configs"] if job["job_name"] == "ostler-gateway"]
    del found["alerting"]
    return found


async def test_prometheus_of_compose_may_read_the_gateway(gateway: RunningGateway, tmp_path: Path) -> None:
    """With the key that make-env.sh writes, once the migration has ensured it; without a key, or before, it is 401."""
    env_file(tmp_path)
    key = tmp_path / ".secrets/metrics-key"

    def is_told(health: str, error: str = "") -> bool:
        found = prometheus.ask("targets")["activeTargets"]
        return any(each["health"] == health and error in each["lastError"] for each in found)

    async with reached_from_elsewhere(gateway) as address, httpx.AsyncClient() as nobody:
        assert (await nobody.get(f"http://{address}/metrics")).status_code == 401
        with prometheus_with(configuration(address, key), tmp_path / "prometheus") as prometheus:
            await until(lambda: is_told("down", "401"), 30)
            await asyncio.to_thread(ensure_as_compose_does, gateway, key)
            await until(lambda: is_told("up"), 30)
            assert prometheus.query("ostler_requests_in_flight")
