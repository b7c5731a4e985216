"""`python -m benchmarks.speed [PIECE...] [--rounds 5] [--seconds 10]`: measure, and write `benchmarks/RESULTS.md`."""

import argparse
import logging
import os
import traceback
from dataclasses import replace
from pathlib import Path

import uvloop

from benchmarks.speed.installing import FOLDER, install
from benchmarks.speed.pieces import PIECES, Piece
from benchmarks.speed.processes import cores
from benchmarks.speed.report import HOME, keep
from benchmarks.speed.versions import machine, versions

SHORT = FOLDER
"""Where runs with too few rounds go, with a page of their own."""


async def _measure(names: list[str], rounds: int, seconds: float, folder: Path | None) -> list[str]:
    """Measure one piece after the other; what failed, in words. One that fails keeps no other from being measured."""
    failed = []
    for name in names:
        print(f"{name} ...", flush=True)
        try:
            page = await _one(PIECES[name], rounds, seconds, folder)
        except Exception as error:  # the systems, their libraries and the figures can all fail in ways of their own
            traceback.print_exc()
            failed.append(f"{name} was not measured: {error or type(error).__name__}")
            print(f"  {failed[-1]}", flush=True)
        else:
            print(f"  written: {page}", flush=True)
    return failed


async def _one(piece: Piece, rounds: int, seconds: float, folder: Path | None) -> Path:
    """Measure a piece, and keep what it found: in that folder, or, of too few rounds, not where the others are."""
    found = await piece.measure(rounds, seconds)
    for goal in found.goals:
        print(f"  {goal.measure}: {goal.found} ({goal.goal}; {'met' if goal.is_met else 'NOT met'})", flush=True)
    run = replace(found, rounds=rounds, seconds=seconds, machine=machine(), versions=versions(piece.uses))
    return keep(run, folder or (HOME if rounds >= piece.least_rounds else SHORT))


def main() -> None:
    """Measure what the command line names, or all of it."""
    parser = argparse.ArgumentParser(prog="benchmarks.speed", description="Ostler beside what people use instead.")
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=f"of: {', '.join(PIECES)}; all if none is named")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measured run")
    parser.add_argument(
        "--into",
        type=Path,
        metavar="FOLDER",
        help=f"of the page; if not said, {HOME.name}/, or {SHORT.name}/ with fewer rounds than a piece needs",
    )
    options = parser.parse_args()
    for name in options.pieces:
        if name not in PIECES:
            parser.error(f"there is no piece {name!r}; there are: {', '.join(PIECES)}")
    logging.getLogger("registry.registry").setLevel(logging.ERROR)  # it warns of the upstream's model, which is none
    install()
    place = cores()
    os.sched_setaffinity(0, place.others)  # what is started here belongs to the load
    names = options.pieces or list(PIECES)
    if failed := uvloop.run(_measure(names, options.rounds, options.seconds, options.into)):
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
