"""The real thing, once a session: `ostler up` with the demo on real vLLM, on free ports and in folders of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx
import psutil
import pytest

from tests.ports import free_port

READY_WITHIN_S = 240.0
STOPPED_WITHIN_S = 40.0


@dataclass
class Up:
    """One `ostler up`, which can be killed and started again on the same state."""

    folder: Path
    port: int
    engine_port: int
    settings: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    monitor_port: int = field(default_factory=free_port)
    tuner_port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        """The gateway's address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def monitor_url(self) -> str:
        """The monitor's own address."""
        return f"http://127.0.0.1:{self.monitor_port}"

    @property
    def engine_url(self) -> str:
        """The engine's own address, which only tests use."""
        return f"http://127.0.0.1:{self.engine_port}"

    @property
    def key(self) -> str:
        """The admin key."""
        return (self.folder / "home" / "admin.key").read_text().strip()

    @property
    def output(self) -> str:
        """What `ostler up` printed, over all its runs."""
        return (self.folder / "up.log").read_text()

    def environment(self) -> dict[str, str]:
        """Settings by environment, and no one else's."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OSTLER_")}
        return kept | {
            "OSTLER_HOME": str(self.folder / "home"),
            "OSTLER_CACHE": str(self.folder / "cache"),
            "OSTLER_PORT": str(self.port),
            "OSTLER_ENGINE_PORT": str(self.engine_port),
            "OSTLER_ENGINE_SLOTS": "8",
            "OSTLER_MONITOR_PORT": str(self.monitor_port),
            "OSTLER_TUNER_PORT": str(self.tuner_port),
            "OSTLER_URL": self.url,
            **self.settings,
        }

    def start(self) -> None:
        """Start it and wait until it is ready and has said so."""
        said_before = len(self.output) if (self.folder / "up.log").exists() else 0
        with self._log() as log:
            command = [sys.executable, "-m", "ostler", "up", *self.arguments]
            self.process = subprocess.Popen(
                command, env=self.environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.wait_ready()
        while "API key" not in self.output[said_before:]:
            time.sleep(0.05)

    def wait_ready(self) -> None:
        """Wait until /readyz says so."""
        assert self.process is not None
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"ostler up ended:\n{self.output}"
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(self.url + "/readyz").status_code == 200:
                    return
            time.sleep(0.2)
        raise AssertionError(f"not ready after {READY_WITHIN_S} s:\n{self.output}")

    def stop(self) -> None:
        """Stop it as a person does, and see that it ends."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(STOPPED_WITHIN_S)
        self.process = None

    def family(self) -> list[psutil.Process]:
        """All its processes."""
        assert self.process is not None
        me = psutil.Process(self.process.pid)
        return [me, *me.children(recursive=True)]

    def running(self, part: str) -> list[psutil.Process]:
        """Those of its processes whose command line holds `part`, without the leashes."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                line = " ".join(process.cmdline())
                if part in line and "leash" not in line:
                    found.append(process)
        return found

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the `ostler` command against it."""
        command = [sys.executable, "-m", "ostler", *arguments]
        return subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=120, check=False)

    def http(self, **options: Any) -> httpx.Client:
        """A client with the admin key."""
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {self.key}"}, timeout=60, **options)

    def _log(self) -> IO[bytes]:
        return (self.folder / "up.log").open("ab")


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A running `ostler up` with the demo; tests leave `support` on version 2."""
    running = Up(tmp_path_factory.mktemp("up"), free_port(), free_port())
    try:
        running.start()
        yield running
    finally:
        running.stop()
