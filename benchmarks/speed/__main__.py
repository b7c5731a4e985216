"""`python -m benchmarks.speed [PIECE...] [--rounds 5] [--seconds 10]`: measure, and write `benchmarks/RESULTS.md`."""

import argparse
import os

import uvloop

from benchmarks.speed.installing import install
from benchmarks.speed.pieces import PIECES
from benchmarks.speed.processes import cores
from benchmarks.speed.report import keep


async def _measure(names: list[str], rounds: int, seconds: float) -> list[str]:
    """Measure one piece after the other; what failed, in words. One that fails keeps no other from being measured."""
    failed = []
    for name in names:
        print(f"{name} ...", flush=True)
        try:
            found = await PIECES[name](rounds, seconds)
        except RuntimeError as error:
            failed.append(f"{name} was not measured: {error}")
            print(f"  {failed[-1]}", flush=True)
            continue
        for goal in found.goals:
            print(f"  {goal.measure}: {goal.found} ({goal.goal}; {'met' if goal.is_met else 'NOT met'})", flush=True)
        keep(found)
    return failed


def main() -> None:
    """Measure what the command line names, or all of it."""
    parser = argparse.ArgumentParser(prog="benchmarks.speed", description="Ostler beside what people use instead.")
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=f"of: {', '.join(PIECES)}; all if none is named")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measured run")
    options = parser.parse_args()
    for name in options.pieces:
        if name not in PIECES:
            parser.error(f"there is no piece {name!r}; there are: {', '.join(PIECES)}")
    install()
    place = cores()
    os.sched_setaffinity(0, place.others)  # what is started here belongs to the load
    if failed := uvloop.run(_measure(options.pieces or list(PIECES), options.rounds, options.seconds)):
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
