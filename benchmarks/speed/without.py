"""Ostler's gateway with parts of its hot path switched off, to see what each costs.

`python -m benchmarks.speed.without recorder,metrics gateway --port 8080 ...`: there are no settings for this, as nobody
should run it so. Parts: `recorder`, `metrics` and `budgets`, none of which then takes anything in of a request that is
over. They are still told of it, which costs next to nothing.
"""

import runpy
import sys
from collections.abc import Sequence

from gateway.limits.budgets import Budgets
from monitors.log.recorder import Recorder
from monitors.metrics import Metrics

HEARS: dict[str, tuple[type, tuple[str, ...]]] = {
    "recorder": (Recorder, ("__call__",)),
    "metrics": (Metrics, ("__call__",)),
    "budgets": (Budgets, ("__call__", "add")),
}
"""A part -> its class, and how that hears of requests that are over; it need not have all of these methods."""


def switch_off(parts: Sequence[str]) -> None:
    """For the gateways of this process.

    Raises:
        SystemExit: there is no such part.
    """
    for part in parts:
        if part not in HEARS:
            raise SystemExit(f"there is no part {part!r}; there are: {', '.join(HEARS)}")
        kind, methods = HEARS[part]
        for method in methods:
            if hasattr(kind, method):
                setattr(kind, method, _take_nothing_in)


def _take_nothing_in(*_: object) -> None:
    """Whatever it was told of."""


if __name__ == "__main__":
    switch_off(sys.argv.pop(1).split(","))
    runpy.run_module("ostler", run_name="__main__", alter_sys=True)
