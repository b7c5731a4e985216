"""Hands records to a recorder until it is killed, and says of each when that was: run by `test_killed.py`."""

import asyncio
import sys
import time

from monitors.log.recorder import Recorder
from monitors.metrics import Metrics
from registry.database import connect
from tests.monitors.records import record

PAUSE_S = 0.002


async def main(url: str) -> None:
    """Print a line with its number and its time for each record, before it is handed over."""
    recorder = Recorder(connect(url), Metrics(), size=100_000)
    writing = asyncio.create_task(recorder.run())
    number = 0
    while not writing.done():
        print(number, time.monotonic(), flush=True)
        recorder(record(str(number)))
        number += 1
        await asyncio.sleep(PAUSE_S)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
