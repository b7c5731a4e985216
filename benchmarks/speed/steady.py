"""Runs `ostler` so that it does hardly anything but answer: `python -m benchmarks.speed.steady 200 PARTS gateway ...`.

What a gateway does now and then without a setting for it, it does once an hour, and the request log is written whenever
so many records wait: so the same requests always cost the same. Parts that are to be off are named as for
`benchmarks.speed.without`; an empty word names none.
"""

import functools
import runpy
import sys

import gateway.app
import gateway.overdue
import registry.notifications
from benchmarks.speed.without import switch_off
from gateway.leadership import Leadership
from monitors.log.recorder import Recorder

HOUR_S = 3600.0


def keep_still(records: int) -> None:
    """For the gateways that this process makes from now on; so many records are written together."""
    vars(gateway.app).update(
        Recorder=functools.partial(Recorder, batch_rows=records, batch_s=HOUR_S),
        Leadership=functools.partial(Leadership, ttl_s=HOUR_S),
        _BUDGETS_EVERY_S=HOUR_S,
        _RATES_EVERY_S=HOUR_S,
    )
    vars(gateway.overdue)["LOOK_EVERY_S"] = HOUR_S
    vars(registry.notifications)["_SQLITE_PAUSE_S"] = HOUR_S


if __name__ == "__main__":
    keep_still(int(sys.argv.pop(1)))
    switch_off([part for part in sys.argv.pop(1).split(",") if part])
    runpy.run_module("ostler", run_name="__main__", alter_sys=True)
