"""vLLM's serving benchmark, and what the gateway used meanwhile."""

import json
from typing import Any, cast

import pytest

from benchmarks.speed import engine

RESULT = {"completed": 10, "request_throughput": 1.0, "output_throughput": 32.0, "median_ttft_ms": 5.0}
_RUNS = f"""
import pathlib, sys
print("Warmup run completed.")
print("Starting main benchmark run...")
folder = sys.argv[sys.argv.index("--result-dir") + 1]
(pathlib.Path(folder) / "result.json").write_text({json.dumps(RESULT | {"median_tpot_ms": 2.0})!r})
"""


class _Gateway:
    """Has used two seconds when the prompts begin, and 0.64 more when they are over."""

    def __init__(self) -> None:
        self._used = iter([2.0, 2.64])

    @property
    def cpu_s(self) -> float:
        return next(self._used)


async def _serve(prompts: int) -> dict[str, float]:
    gateway = cast(Any, _Gateway())
    door = engine.Door("through Ostler", "http://127.0.0.1:9", "support", "key")
    return dict(await engine.serve_benchmark(door, gateway, tokenizer="x", clients=2, prompts=prompts, seed=1))


async def test_the_gateways_time_counts_from_the_first_prompt_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while the benchmark loads its libraries and warms up."""
    monkeypatch.setattr(engine, "_SERVE", _RUNS)
    found = await _serve(10)
    assert found["cpu_s_per_1000"] == pytest.approx(64.0)
    assert found["cpu_us_per_token"] == pytest.approx(2000.0)
    assert found["first_token_ms"] == 5.0


async def test_a_benchmark_that_fails_says_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one of whose requests some failed is none."""
    monkeypatch.setattr(engine, "_SERVE", "raise SystemExit('no such tokenizer')")
    with pytest.raises(RuntimeError, match="no such tokenizer"):
        await _serve(10)
    monkeypatch.setattr(engine, "_SERVE", _RUNS)
    with pytest.raises(RuntimeError, match="1 of 11 requests failed"):
        await _serve(11)
