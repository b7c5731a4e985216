"""Hands records to a recorder until it is killed, and says the number of each: run by `test_killed.py`."""

import asyncio
import sys

from monitors.log.recorder import Recorder
from monitors.metrics import Metrics
from registry.database import connect
from tests.monitors.records import record

BATCH_ROWS = 50


async def main(url: str) -> None:
    """Print a record's number before it is handed over, as soon as no more than two batches would wait with it."""
    recorder = Recorder(connect(url), Metrics(), size=100_000, batch_rows=BATCH_ROWS, batch_s=3600)
    writing = asyncio.create_task(recorder.run())
    number = 0
    while not writing.done():
        await asyncio.sleep(0.0002)
        if recorder._held < 2 * BATCH_ROWS:
            print(number, flush=True)
            recorder(record(str(number)))
            number += 1


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
