"""Where a request's time goes, in microseconds per step: py-spy's samples of the gateway under load.

A sample counts for the innermost of its functions that belongs to a step, so that what a step calls of the standard
library is its own, and the steps add up. Samples are of the main thread, on which the event loop runs; their shares are
taken of that thread's processor time per request, which was measured just before without py-spy. What other threads
use (SQLite's) is measured, too, and the garbage collector's time, which lies within the steps.
"""

import asyncio
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmarks.speed.installing import PY_SPY
from benchmarks.speed.processes import Cores, cores
from benchmarks.speed.report import Found
from benchmarks.speed.rounds import Figure, Figures, take_turns, values_of
from benchmarks.speed.systems import Ostler
from benchmarks.speed.trial import Trial, trial
from benchmarks.speed.watched import collected_s

CLIENTS, RATE = 32, 100
MAIN, OTHER = "MainThread", "other"
STEPS: dict[str, tuple[str, ...]] = {
    "server: HTTP in and out (httptools)": ("ostler/http1.py",),
    "framework: to the handler (Litestar)": ("litestar/", "gateway/app.py", "gateway/web.py"),
    "key": ("gateway/auth.py", "registry/keys.py", "registry/catalog.py"),
    "limits": ("gateway/limits/",),
    "body": ("gateway/body.py",),
    "route": ("gateway/routing.py", "gateway/directory.py"),
    "place and replica": ("gateway/limits/admission.py", "gateway/engines/", "gateway/priority.py"),
    "engine client": ("gateway/engines/connections.py", "gateway/engines/engine.py", "aiohttp/", "yarl/"),
    "relay": ("gateway/relay.py", "gateway/answer.py", "gateway/events.py", "gateway/usage.py", "gateway/capture.py"),
    "the request's way (its order of steps)": ("gateway/inference.py", "gateway/shadow.py", "gateway/tracing.py"),
    "dispatch: tries, one after the other": ("gateway/dispatch.py",),
    "what is known of the request": ("gateway/exchange.py", "gateway/waiting.py"),
    "deadlines, lost clients": ("gateway/overdue.py", "gateway/leaving.py"),
    "usage and prices": ("gateway/pricing.py", "gateway/limits/budgets.py"),
    "metrics": ("monitors/metrics.py", "monitors/counting.py", "prometheus_client/"),
    "records, to the database": ("monitors/", "sqlalchemy/", "sqlmodel/", "aiosqlite/", "asyncpg/"),
    "tasks and time-outs (asyncio)": (
        "asyncio/tasks.py",
        "asyncio/timeouts.py",
        "asyncio/locks.py",
        "asyncio/mixins.py",
    ),
    "event loop: waiting, reading, system calls (uvloop)": ("asyncio/runners.py", "uvicorn/server.py"),
}
"""A step -> what files that are its own begin with; of several that fit, the longest."""
_KINDS = {"request": False, "stream of 64 events": True}
_US = 1e6


def steps_of(raw: Iterable[str]) -> Counter[str]:
    """Samples of the main thread by step, from lines as `py-spy record --threads --format raw` writes them.

    Each line has a thread and its functions, outermost first, and how often that was seen.
    """
    found: Counter[str] = Counter()
    for line in raw:
        stack, _, count = line.rstrip().rpartition(" ")
        thread, *functions = stack.split(";")
        if thread.endswith(MAIN):
            found[next((step for each in reversed(functions) if (step := step_of(each))), OTHER)] += int(count)
    return found


def step_of(function: str) -> str | None:
    """The step of a function as py-spy names it: `name (folder/file.py:12)`."""
    file = function.rpartition("(")[2]
    fitting = [(len(begin), step) for step, begins in STEPS.items() for begin in begins if file.startswith(begin)]
    return max(fitting)[1] if fitting else None


async def where(is_stream: bool, cores: Cores, *, seconds: float) -> Figures:
    """One turn: microseconds of a request in each step, and its whole processor time."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        system = Ostler("Ostler", program=("benchmarks.speed.watched", str(folder / "collected")))
        async with trial(system, cores) as bench:
            cost = await _cost(bench, folder / "collected", is_stream=is_stream, seconds=seconds)
            seen = await _samples(bench, folder / "samples", is_stream=is_stream, seconds=seconds)
    shares = {step: seen[step] / seen.total() for step in (*STEPS, OTHER)}
    return {**cost, **{step: share * cost["main_us"] for step, share in shares.items()}}


async def _cost(bench: Trial, collected: Path, *, is_stream: bool, seconds: float) -> dict[str, float]:
    """What a request takes, without a profiler: microseconds."""
    process = bench.serving.process
    assert process is not None
    before = process.main_thread_cpu_s, process.cpu_s, collected_s(collected)
    pressed = await bench.press(clients=CLIENTS, seconds=seconds, stream=is_stream)
    after = process.main_thread_cpu_s, process.cpu_s, collected_s(collected)
    main, whole, garbage = (
        (until - since) / pressed.load.requests * _US for since, until in zip(before, after, strict=True)
    )
    return {"main_us": main, "threads_us": whole - main, "whole_us": whole, "gc_us": garbage}


async def _samples(bench: Trial, file: Path, *, is_stream: bool, seconds: float) -> Counter[str]:
    """The main thread's samples by step.

    Raises:
        RuntimeError: py-spy saw nothing.
    """
    assert bench.serving.process is not None
    argv = (str(PY_SPY), "record", "--pid", str(bench.serving.process.pid), "--rate", str(RATE), "--threads")
    spying = asyncio.create_task(_said(*argv, "--duration", f"{seconds:.0f}", "--format", "raw", "--output", str(file)))
    await bench.press(clients=CLIENTS, seconds=seconds + 1, stream=is_stream)  # it takes a moment to attach
    said = await spying
    found = steps_of(file.read_text().splitlines()) if file.exists() else Counter[str]()
    if not found:
        raise RuntimeError(f"py-spy saw nothing: {said[-500:]}")
    return found


async def _said(*argv: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    return (await process.communicate())[0].decode(errors="replace")


async def profiles(rounds: int, seconds: float) -> Found:
    """A request and a stream, step by step."""
    place = cores()
    turns = await take_turns(
        list(_KINDS.values()), lambda is_stream: where(is_stream, place, seconds=seconds), rounds=rounds
    )
    names = {
        **{step: step for step in (*STEPS, OTHER)},
        "threads_us": "other threads: SQLite",
        "whole_us": "**all together**",
        "gc_us": "of this, the garbage collector",
    }
    rows = [
        [shown, *(cell for found in turns for cell in (found[name].shown(0), _share(found, name)))]
        for name, shown in names.items()
    ]
    text = (
        f"Ostler with all features at {CLIENTS} clients, by py-spy ({RATE} samples a second of the main thread). A"
        " sample counts for the innermost function that belongs to a step; microseconds are the step's share of the"
        " processor time that a request took without py-spy."
    )
    columns = ["step", *itertools.chain.from_iterable((f"{kind}, us", "share") for kind in _KINDS)]
    return Found("0-profile", "Where a request's time goes", text, columns, rows, values=values_of(_KINDS, turns))


def _share(found: dict[str, Figure], name: str) -> str:
    return f"{found[name].median / found['whole_us'].median:.0%}"
