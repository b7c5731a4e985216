"""Which cores do what, and what a process has used."""

import asyncio
import sys
from pathlib import Path

import pytest

from benchmarks.speed import processes
from benchmarks.speed.processes import Command, Cores, cores, running
from tests.conftest import until


@pytest.mark.parametrize(
    ("allowed", "measured", "expected"),
    [
        ([0, 1], 1, Cores((0,), (1,))),
        ([0, 1], 2, Cores((0, 1), (0, 1))),
        ([2, 5, 6, 7], 1, Cores((2,), (5, 6, 7))),
        ([2, 5, 6, 7], 2, Cores((2, 5), (6, 7))),
    ],
)
def test_what_is_measured_shares_no_core_with_its_load(
    monkeypatch: pytest.MonkeyPatch, allowed: list[int], measured: int, expected: Cores
) -> None:
    """Unless there are too few for that; only cores that this process may use count."""
    monkeypatch.setattr(processes, "ALLOWED", allowed)
    assert cores(measured) == expected


def test_one_core_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that was measured on it would mean anything."""
    monkeypatch.setattr(processes, "ALLOWED", [3])
    with pytest.raises(RuntimeError, match="two cores"):
        cores()


_WORKS = "import time\nwhile time.process_time() < 0.3: pass\n"
_CHILD = f"{_WORKS}time.sleep(60)"
_PARENT = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {_CHILD!r}])\n{_CHILD}"


async def test_processor_time_is_told_for_each_process(tmp_path: Path) -> None:
    """Children's, too, and the sum is that of all."""
    async with running(Command((sys.executable, "-c", _PARENT), processes.ALLOWED), tmp_path / "log") as process:

        def both_have_worked() -> bool:
            used = process.cpu_s_by_process.values()
            return len(used) == 2 and min(used) >= 0.25

        await until(both_have_worked)
        used = process.cpu_s_by_process
        assert process.pid in used
        assert process.cpu_s >= sum(used.values())
        assert 0.25 <= process.main_thread_cpu_s <= process.cpu_s - 0.25


async def test_a_process_below_is_found_by_its_arguments(tmp_path: Path) -> None:
    """By all of them: what starts it may have them, too, among its own."""
    child = "import time; time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    async with running(Command((sys.executable, "-c", parent), processes.ALLOWED), tmp_path / "log") as process:
        await until(lambda: len(process.cpu_s_by_process) == 2)
        await asyncio.sleep(0.2)  # until it has its own arguments
        assert process.below("-c", child).pid != process.pid
        with pytest.raises(RuntimeError, match="no process runs -c pass"):
            process.below("-c", "pass")


_GREW = "import time\nheld = bytearray(200 << 20)\ndel held\ntime.sleep(60)"
_BOTH_GREW = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {_GREW!r}])\n{_GREW}"


async def test_the_most_memory_is_told_also_after_it_was_given_back(tmp_path: Path) -> None:
    """Of children, too: looking at it now and then might miss it."""
    async with running(Command((sys.executable, "-c", _BOTH_GREW), processes.ALLOWED), tmp_path / "log") as process:
        await until(lambda: process.peak_mib >= 400 and process.memory_mib < 100)
        assert process.peak_mib < 500


async def test_a_process_that_ends_at_once_says_what_it_said(tmp_path: Path) -> None:
    """So that whoever runs a benchmark knows what is missing."""
    command = Command(
        (sys.executable, "-c", "raise SystemExit('no such setting')"), processes.ALLOWED, ready="http://x/"
    )
    with pytest.raises(RuntimeError, match="no such setting"):
        async with running(command, tmp_path / "log"):
            pass
