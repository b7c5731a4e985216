"""Real vLLM, direct and through Ostler, by the serving benchmark that vLLM's own package brings.

Both are asked for the same version of the demo's adapter, on the same engine, in turns. On a machine with few cores
the engine, the gateway and the benchmark share them, which counts against the gateway.
"""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.speed.processes import Command, Cores, running
from benchmarks.speed.rounds import Figures
from tests.ports import free_port

MODEL = "support"
CLIENTS, PROMPTS = 16, 400
_SERVE = """
import argparse, asyncio, sys
from vllm.benchmarks.serve import add_cli_args, main_async
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
asyncio.run(main_async(parser.parse_args()))
"""


@dataclass(frozen=True, slots=True)
class Door:
    """A way to the engine: its address, the name that the version has there, and the key."""

    name: str
    url: str
    model: str
    key: str


@contextlib.asynccontextmanager
async def doors(cores: Cores) -> AsyncIterator[tuple[Door, Door]]:
    """`ostler up` with the demo, for the block: the engine itself, and the gateway before it."""
    with tempfile.TemporaryDirectory(prefix="ostler-bench-") as made:
        folder, port, engine_port = Path(made), free_port(), free_port()
        env = {
            "OSTLER_HOME": str(folder / "home"),
            "OSTLER_CACHE": str(folder / "cache"),
            "OSTLER_PORT": str(port),
            "OSTLER_ENGINE_PORT": str(engine_port),
            "OSTLER_MONITOR_PORT": str(free_port()),
            "OSTLER_TUNER_PORT": str(free_port()),
        }
        everywhere = (*cores.measured, *cores.others)
        argv = (sys.executable, "-m", "ostler", "up")
        command = Command(argv, everywhere, env, ready=f"http://127.0.0.1:{port}/readyz")
        async with running(command, folder / "log"):
            key = (folder / "home" / "admin.key").read_text().strip()
            url = f"http://127.0.0.1:{port}"
            name = await _engine_name(url, key)
            yield Door("direct", f"http://127.0.0.1:{engine_port}", name, key), Door("through Ostler", url, MODEL, key)


async def _engine_name(url: str, key: str) -> str:
    """What the engine calls the version in service."""
    headers = {"authorization": f"Bearer {key}"}
    address = f"{url}/admin/v1/adapters/{MODEL}"
    async with aiohttp.ClientSession(headers=headers) as http, http.get(address) as response:
        shown = await response.json()
    stable = shown["deployment"]["stable"]
    return next(str(version["engine_name"]) for version in shown["versions"] if version["number"] == stable)


async def serve_benchmark(door: Door, *, tokenizer: str, clients: int, prompts: int, seed: int) -> Figures:
    """One run of vLLM's serving benchmark.

    Raises:
        RuntimeError: it failed, or requests did.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "backend": "openai-chat",
            "endpoint": "/v1/chat/completions",
            "base-url": door.url,
            "model": door.model,
            "tokenizer": tokenizer,
            "dataset-name": "random",
            "random-input-len": 64,
            "random-output-len": 32,
            "num-prompts": prompts,
            "max-concurrency": clients,
            "num-warmups": clients,
            "seed": seed,
            "percentile-metrics": "ttft,tpot,itl,e2el",
            "metric-percentiles": "50,99",
            "result-dir": folder,
            "result-filename": "result.json",
        }
        flags = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _SERVE, *flags, "--ignore-eos", "--save-result", "--disable-tqdm"),
            env={**os.environ, "OPENAI_API_KEY": door.key, "HF_HUB_OFFLINE": "1"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said = (await process.communicate())[0].decode(errors="replace")
        result = Path(folder) / "result.json"
        if process.returncode or not result.exists():
            raise RuntimeError(f"vLLM's serving benchmark failed: {said[-2000:]}")
        found = json.loads(result.read_text())
    if found["completed"] != prompts:
        raise RuntimeError(f"{door.name}: {prompts - found['completed']} of {prompts} requests failed")
    return {
        "requests_per_s": found["request_throughput"],
        "tokens_per_s": found["output_throughput"],
        "first_token_ms": found["median_ttft_ms"],
        "token_ms": found["median_tpot_ms"],
    }
