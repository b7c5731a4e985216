"""Ostler's gateway with parts of its hot path switched off, to see what each costs.

`python -m benchmarks.speed.without recorder,metrics gateway --port 8080 ...`: there are no settings for this, as nobody
should run it so. Parts: `recorder`, `metrics` and `budgets`, none of
which then hears of requests that are over.
"""

import runpy
import sys
from collections.abc import Sequence
from typing import Any

import gateway.app
from gateway.inference import Inference
from gateway.limits.budgets import Budgets
from monitors.log.recorder import Recorder
from monitors.metrics import Metrics
from monitors.record import RequestHook

HOOKS = {"recorder": Recorder, "metrics": Metrics, "budgets": Budgets}


def switch_off(parts: Sequence[str]) -> None:
    """For the gateways that this process makes from now on.

    Raises:
        SystemExit: there is no such part.
    """
    for part in parts:
        if part not in HOOKS:
            raise SystemExit(f"there is no part {part!r}; there are: {', '.join(HOOKS)}")
    kinds = tuple(HOOKS[part] for part in parts)

    def with_fewer_hooks(*arguments: Any) -> Inference:
        hooks: list[RequestHook] = next(each for each in arguments if isinstance(each, list))
        hooks[:] = [hook for hook in hooks if not isinstance(hook, kinds)]
        return Inference(*arguments)

    vars(gateway.app)["Inference"] = with_fewer_hooks


if __name__ == "__main__":
    switch_off(sys.argv.pop(1).split(","))
    runpy.run_module("ostler", run_name="__main__", alter_sys=True)
