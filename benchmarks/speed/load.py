"""Closed loops of requests by wrk: each client sends its next request once it has the last one's answer."""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.processes import pinned

_SCRIPT = """
wrk.method, wrk.body = "POST", os.getenv("BENCH_BODY")
for name, value in os.getenv("BENCH_HEADERS"):gmatch("([^:\\n]+): ([^\\n]+)") do wrk.headers[name] = value end
done = function(summary, latency)
  local failed = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"duration_us":%d,"failed":%d,"p50_us":%d,"p99_us":%d}\\n',
    summary.requests, summary.duration, failed.connect + failed.read + failed.write + failed.status + failed.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run found.

    Attributes:
        per_s: answers a second.
        p50_ms, p99_ms: from request to the answer's end.
        requests: answers in all.
        failed: errors of any kind, other statuses than 2xx and 3xx included.
    """

    per_s: float
    p50_ms: float
    p99_ms: float
    requests: int
    failed: int


async def press(
    url: str,
    body: object,
    headers: Mapping[str, str],
    *,
    clients: int,
    seconds: float,
    cores: Sequence[int],
    folder: Path,
) -> Load:
    """Have so many clients ask for so long.

    Raises:
        RuntimeError: wrk could not be run.
    """
    script = folder / "load.lua"
    script.write_text(_SCRIPT)
    lines = "\n".join(f"{name}: {value}" for name, value in {"content-type": "application/json", **headers}.items())
    process = await asyncio.create_subprocess_exec(
        *pinned(cores, "wrk", "--threads", "1", "--connections", str(clients), "--duration", f"{seconds:.0f}s"),
        *("--timeout", "30s", "--script", str(script), url),
        env={**os.environ, "BENCH_BODY": json.dumps(body), "BENCH_HEADERS": lines},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()
    found = next((line for line in said.splitlines() if line.startswith("RESULT ")), None)
    if found is None:
        raise RuntimeError(f"wrk failed: {said[-500:]}")
    numbers = json.loads(found.removeprefix("RESULT "))
    return Load(
        per_s=numbers["requests"] / numbers["duration_us"] * 1e6,
        p50_ms=numbers["p50_us"] / 1000,
        p99_ms=numbers["p99_us"] / 1000,
        requests=numbers["requests"],
        failed=numbers["failed"],
    )
