"""Samples of a profiler, by the step of a request that they belong to."""

import pytest

from benchmarks.speed.profile import STEPS, step_of, steps_of

SAMPLES = """\
thread (7): MainThread;run (uvicorn/server.py:86);Runner.run (asyncio/runners.py:118) 5
thread (7): MainThread;Runner.run (asyncio/runners.py:118);authenticate (gateway/auth.py:40) 2
thread (7): MainThread;Runner.run (asyncio/runners.py:118);authenticate (gateway/auth.py:40);sha256 (hashlib.py:9) 3
thread (7): MainThread;Inference._serve (gateway/inference.py:9);Limiter.admit (gateway/limits/limiter.py:71) 4
thread (7): MainThread;Inference._serve (gateway/inference.py:9);Engine.forward (gateway/engines/engine.py:1) 6
thread (7): MainThread;odd (<string>:1) 1
thread (9): Thread-2 (_connection_worker_thread);_connection_worker_thread (aiosqlite/core.py:59) 100
"""


def test_a_sample_counts_for_the_innermost_step() -> None:
    """What a step calls of the standard library is its own, and waits of other threads count for nothing."""
    assert steps_of(SAMPLES.splitlines()) == {
        "event loop: waiting, reading, system calls (uvloop)": 5,
        "key": 5,
        "limits": 4,
        "engine client": 6,
        "other": 1,
    }


@pytest.mark.parametrize(
    ("function", "step"),
    [
        ("admit (gateway/limits/limiter.py:1)", "limits"),
        ("place (gateway/limits/admission.py:1)", "place and replica"),
        ("pick (gateway/engines/picking.py:1)", "place and replica"),
        ("forward (gateway/engines/engine.py:1)", "engine client"),
        ("<lambda> (monitors/metrics.py:1)", "metrics"),
        ("_write (monitors/log/recorder.py:1)", "records, to the database"),
        ("load (json/decoder.py:1)", None),
    ],
)
def test_the_longest_beginning_of_a_file_says_its_step(function: str, step: str | None) -> None:
    """So a file may be of another step than its folder."""
    assert step_of(function) == step


def test_each_beginning_belongs_to_one_step() -> None:
    """Or it would depend on the table's order where a sample counts."""
    begins = [begin for step in STEPS.values() for begin in step]
    assert len(begins) == len(set(begins))
