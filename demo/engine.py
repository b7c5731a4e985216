"""A vLLM server for as long as a `with` block lasts."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from demo import BASE_NAME, Adapter

__all__ = ["engine_name", "running_engine"]

START_LIMIT = 300  # seconds


def engine_name(adapter: Adapter) -> str:
    """The model's name that stands for one version here."""
    return f"{adapter.name}@{adapter.version}"


@contextmanager
def running_engine(base: Path, adapters: Sequence[Adapter], log: Path) -> Iterator[str]:
    """Yield the URL of a server with `base` and `adapters`; its output goes to the file `log`.

    Raises RuntimeError when it does not get ready.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        # A session of its own: the server has children, and only their group can be stopped as a whole.
        process = subprocess.Popen(
            _command(base, adapters, port),
            env={**os.environ, **_environment()},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_until_ready(process, url, log)
            yield url
        finally:
            _stop(process)


def _command(base: Path, adapters: Sequence[Adapter], port: int) -> list[str]:
    options = {
        "--model": str(base),
        "--served-model-name": BASE_NAME,
        "--host": "127.0.0.1",
        "--port": str(port),
        "--dtype": "float32",
        "--max-model-len": "512",
        "--max-loras": str(max(1, len(adapters))),
        "--max-lora-rank": "16",
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager", "--enable-lora"]
    for name, value in options.items():
        command += [name, value]
    if adapters:
        command += ["--lora-modules", *(f"{engine_name(each)}={each.folder}" for each in adapters)]
    return command


def _environment() -> dict[str, str]:
    return {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_NO_USAGE_STATS": "1",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"vLLM ended with {process.returncode}: {_last_words(log)}")
        if _healthy(url):
            return
        time.sleep(0.5)
    raise RuntimeError(f"vLLM was not ready after {START_LIMIT} s: {_last_words(log)}")


def _last_words(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def _healthy(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/health", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the whole group to end, then insist."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            continue
