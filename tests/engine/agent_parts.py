"""The parts of a pod on this machine: a guarded vLLM and its agent, with a gateway and an S3 server elsewhere."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from moto.server import ThreadedMotoServer

import demo
from ostler.engine_command import EngineOptions, engine_command
from tests.engine.conftest import READY_WITHIN_S, STOPPED_WITHIN_S
from tests.ports import free_port

GUARD = Path(__file__).resolve().parents[2] / "helm" / "files"
TOKEN = "between-gateway-and-agent"


@dataclass(frozen=True)
class Ports:
    """Who listens where."""

    engine: int
    agent: int
    gateway: int


@dataclass
class Parts:
    """Where everything is, and what it runs with.

    Attributes:
        address: an address of this machine that is not loopback.
        environment: of the gateway, and of the commands that speak to it.
        engine: vLLM's process.
    """

    folder: Path
    address: str
    ports: Ports
    environment: Mapping[str, str]
    key: str = ""
    engine: subprocess.Popen[bytes] | None = None

    @property
    def drain_file(self) -> Path:
        """What the guard looks at."""
        return self.folder / "draining"

    @property
    def gateway_url(self) -> str:
        """The gateway's address."""
        return f"http://127.0.0.1:{self.ports.gateway}"

    @property
    def engine_url(self) -> str:
        """The engine's own address."""
        return f"http://{self.address}:{self.ports.engine}"

    @property
    def agent_cache(self) -> Path:
        """The agent's folder of versions."""
        return self.folder / "agent"

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the `ostler` command."""
        command = [sys.executable, "-m", "ostler", *arguments]
        env = {**self.environment, "OSTLER_URL": self.gateway_url, "OSTLER_API_KEY": self.key}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        return done


def own_address() -> str:
    """An address of this machine that is not loopback; 127.0.0.2 if it has none, which the guard takes for foreign."""
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            if each.family == socket.AF_INET and not each.address.startswith("127."):
                return each.address
    return "127.0.0.2"


@contextlib.contextmanager
def parts(folder: Path) -> Iterator[Parts]:
    """Start all of it, and wait until the gateway is ready."""
    with contextlib.ExitStack() as stack:
        s3 = stack.enter_context(s3_server())
        address = own_address()
        ports = Ports(free_port(), free_port(), free_port())
        found = Parts(folder, address, ports, _environment(folder, s3, address, ports))
        stack.enter_context(_engine(found))
        stack.enter_context(_process(found, "agent"))
        found.cli("migrate")
        made = found.cli("keys", "create", "test", "--admin", "--local", "--json")
        found.key = httpx.Response(200, text=made.stdout).json()["secret"]
        stack.enter_context(_process(found, "gateway"))
        _wait(lambda: _answers(f"{found.gateway_url}/readyz"))
        yield found


@contextlib.contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """An S3 server with a bucket; the environment of its clients."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        httpx.put(f"{url}/bucket").raise_for_status()
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.stop()


def _environment(folder: Path, s3: Mapping[str, str], address: str, ports: Ports) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OSTLER_", "AWS_"))}
    own = {
        "OSTLER_HOME": str(folder / "home"),
        "OSTLER_CACHE": str(folder / "gateway-cache"),
        "OSTLER_ARTIFACTS_URL": "s3://bucket/ostler",
        "OSTLER_BASE": demo.BASE_NAME,
        "OSTLER_BASE_MODEL": str(demo.BASE_DIR),
        "OSTLER_ENGINE_URL": f"http://{address}:{ports.engine}",
        "OSTLER_ENGINE_AGENT_PORT": str(ports.agent),
        "OSTLER_ENGINE_SLOTS": "4",
        "OSTLER_ENGINE_WAIT_S": "1",
        "OSTLER_PORT": str(ports.gateway),
        "OSTLER_AGENT_TOKEN": TOKEN,
        "OSTLER_AGENT_HOST": address,
        "OSTLER_AGENT_PORT": str(ports.agent),
        "OSTLER_AGENT_ENGINE_URL": f"http://127.0.0.1:{ports.engine}",
        "OSTLER_AGENT_CACHE": str(folder / "agent"),
    }
    return {**kept, **s3, **own}


@contextlib.contextmanager
def _engine(found: Parts) -> Iterator[None]:
    options = EngineOptions(
        model=str(demo.BASE_DIR),
        served_name=demo.BASE_NAME,
        host="0.0.0.0",
        port=found.ports.engine,
        max_cpu_loras=4,
        max_model_len=512,
        kv_cache_gib=0.5,
        extra_args=("--middleware", "engine_guard.LoopbackOnly", "--shutdown-timeout", "120"),
    )
    command = engine_command(options)
    kept = {name: value for name, value in os.environ.items() if name not in command.drop}
    paths = os.pathsep.join(filter(None, (str(GUARD), os.environ.get("PYTHONPATH"))))
    env = {**kept, **command.env, "PYTHONPATH": paths, "OSTLER_ENGINE_DRAIN_FILE": str(found.drain_file)}
    with _started(found, "engine", [*command.argv], env) as found.engine:
        _wait(lambda: _answers(f"http://127.0.0.1:{found.ports.engine}/health"))
        yield


@contextlib.contextmanager
def _process(found: Parts, name: str) -> Iterator[None]:
    with _started(found, name, [sys.executable, "-m", "ostler", name], found.environment):
        yield


@contextlib.contextmanager
def _started(found: Parts, name: str, argv: list[str], env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process with its log, whose whole group ends with the block."""
    with (found.folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(argv, env=dict(env), stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOPPED_WITHIN_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # vLLM's own children, if it left any
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def _wait(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, "it did not become ready"
        time.sleep(0.2)
