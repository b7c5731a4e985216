"""Real vLLM, direct and through Ostler, by the serving benchmark that vLLM's own package brings.

Both are asked for the same version of the demo's adapter, on the same engine, in turns; the gateway has all features
on, as in the other comparisons. On a machine with few cores the engine, the gateway and the benchmark share them, which
counts against the gateway.
"""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.speed.processes import Command, Cores, Running, running
from benchmarks.speed.rounds import Figures
from benchmarks.speed.stock import LIMITS, Stock
from tests.ports import free_port

MODEL = "support"
CLIENTS, PROMPTS_PER_S = 16, 40
"""Prompts for each second that a run may take; a slower engine takes longer."""
PROMPT_TOKENS, ANSWER_TOKENS = 64, 32
CANARY = 0.01
"""Its share: small, as an engine has more to do with two versions at once, and when asked directly it has one."""
_ADAPTER = f"/admin/v1/adapters/{MODEL}"
_BEGINS = b"Starting main benchmark run"
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
async def doors(cores: Cores) -> AsyncIterator[tuple[tuple[Door, Door], Running]]:
    """`ostler up` with the demo and all features, for the block: the engine and the gateway before it, and its process.

    Raises:
        RuntimeError: it does not serve, or something took the canary back meanwhile.
    """
    with tempfile.TemporaryDirectory(prefix="ostler-bench-") as made:
        folder, port, engine_port = Path(made), free_port(), free_port()
        env = {
            "OSTLER_HOME": str(folder / "home"),
            "OSTLER_CACHE": str(folder / "cache"),
            "OSTLER_PORT": str(port),
            "OSTLER_ENGINE_PORT": str(engine_port),
            "OSTLER_MONITOR_PORT": str(free_port()),
            "OSTLER_TUNER_PORT": str(free_port()),
            **Stock().environment,
        }
        everywhere = (*cores.measured, *cores.others)
        argv = (sys.executable, "-m", "ostler", "up")
        url = f"http://127.0.0.1:{port}"
        command = Command(argv, everywhere, env, ready=f"{url}/readyz")
        async with running(command, folder / "log") as process:
            headers = {"authorization": f"Bearer {(folder / 'home' / 'admin.key').read_text().strip()}"}
            async with aiohttp.ClientSession(url, headers=headers) as admin:
                name, key = await _furnish(admin)
                direct = Door("direct", f"http://127.0.0.1:{engine_port}", name, key)
                yield (direct, Door("through Ostler", url, MODEL, key)), process.below("-m", "ostler", "gateway")
                if (await _ask(admin, "GET", _ADAPTER))["deployment"]["canary"] is None:
                    raise RuntimeError("the canary was taken back before the end")


async def _furnish(admin: aiohttp.ClientSession) -> tuple[str, str]:
    """Have a canary, and a key with limits of every kind; what the engine calls the version in service, and the key."""
    shown = await _ask(admin, "GET", _ADAPTER)
    stable = shown["deployment"]["stable"]
    names = {version["number"]: str(version["engine_name"]) for version in shown["versions"]}
    canary = next(number for number in names if number != stable)
    order = {"canary": {"version": canary, "weight": CANARY}, "reason": "benchmark", "force": True}
    await _ask(admin, "PATCH", f"{_ADAPTER}/deployment", order)
    made = await _ask(admin, "POST", "/admin/v1/keys", {"name": "benchmark", "limits": asdict(LIMITS)})
    return names[stable], str(made["secret"])


async def _ask(admin: aiohttp.ClientSession, method: str, path: str, order: object = None) -> Any:
    async with admin.request(method, path, json=order) as response:
        if response.status >= 300:
            raise RuntimeError(f"{method} {path} was refused with {response.status}: {await response.text()}")
        return await response.json()


async def serve_benchmark(
    door: Door, gateway: Running, *, tokenizer: str, clients: int, prompts: int, seed: int
) -> Figures:
    """One run of vLLM's serving benchmark, with the gateway's processor time meanwhile.

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
            "random-input-len": PROMPT_TOKENS,
            "random-output-len": ANSWER_TOKENS,
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
            env={**os.environ, "OPENAI_API_KEY": door.key, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdout is not None
        said, before = "", 0.0
        async for line in process.stdout:
            said += line.decode(errors="replace")
            if line.startswith(_BEGINS):  # it has loaded its libraries and warmed up
                before = gateway.cpu_s
        await process.wait()
        result = Path(folder) / "result.json"
        if process.returncode or not result.exists():
            raise RuntimeError(f"vLLM's serving benchmark failed: {said[-2000:]}")
        found = json.loads(result.read_text())
    if found["completed"] != prompts:
        raise RuntimeError(f"{door.name}: {prompts - found['completed']} of {prompts} requests failed")
    cpu_s = (gateway.cpu_s - before) / prompts
    return {
        "cpu_s_per_1000": cpu_s * 1000,
        "cpu_us_per_token": cpu_s / ANSWER_TOKENS * 1e6,
        "requests_per_s": found["request_throughput"],
        "tokens_per_s": found["output_throughput"],
        "first_token_ms": found["median_ttft_ms"],
        "token_ms": found["median_tpot_ms"],
    }
