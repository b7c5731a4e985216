"""The gate's report: what was held against what, what came of it, and why. JSON, kept with the version."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from registry.tuning.rules import AskedSet
from tuner.evaluation.contenders import Contenders
from tuner.evaluation.gate import Verdict

FORMAT = 1
_DIGITS = 6


def report(
    contenders: Contenders,
    verdict: Verdict,
    *,
    alpha: float,
    loosened: Mapping[str, Mapping[str, Any]],
    attempt: int,
    dataset: str | None,
    sets: Mapping[str, AskedSet],
    created_at: datetime,
    seconds: float,
    plots: dict[str, Any],
) -> dict[str, Any]:
    """All of it but the digest of its page. It holds numbers, names and labels, and nothing that was said.

    `loosened` is what the order asked for less than the defaults do, and `attempt` which candidate of its adapter this
    is that was judged on this holdout, from 1.
    """
    found = {
        "format": FORMAT,
        "passed": verdict.passed,
        "reason": verdict.reason,
        "version": contenders.named,
        "candidate": contenders.candidate,
        "incumbent": contenders.incumbent,
        "base": contenders.base,
        "alpha": alpha,
        "loosened": loosened,
        "attempt": attempt,
        "dataset": dataset,
        "sets": msgspec.to_builtins(sets),
        "created_at": created_at.isoformat(),
        "seconds": seconds,
        "parts": msgspec.to_builtins(verdict.parts),
        "told": msgspec.to_builtins(verdict.told),
        "plots": plots,
    }
    rounded: dict[str, Any] = _rounded(found)
    return rounded


def _rounded(value: Any) -> Any:
    """The same with as many digits as anyone reads."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value
