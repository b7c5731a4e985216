"""What a `kill -9` loses: the requests since the last batch, which is at most one pause and one write ago."""

import asyncio
import signal
import sys
import time
from itertools import pairwise

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.log.recorder import BATCH_S
from monitors.log.usage_report import usage
from tests.conftest import until
from tests.monitors.conftest import written


async def test_a_killed_process_loses_at_most_its_last_batch(
    database: AsyncEngine, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is there is the beginning without a gap, with sums that agree; what is lost came since the batch before."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.monitors.log.killed_recorder", database_url), stdout=asyncio.subprocess.PIPE
    )
    looks = asyncio.create_task(look(database))
    await until(looks.done, seconds=60)
    process.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    out, _ = await process.communicate()
    handed = {
        number: float(moment)
        for number, moment in (line.split() for line in out.decode().splitlines() if line.count(" ") == 1)
    }
    found = await written(database)
    assert found == [str(number) for number in range(len(found))]
    (row,) = await usage(database, by=(), per="all")
    assert row.requests == len(found)
    lost = [moment for number, moment in handed.items() if int(number) >= len(found)]
    age = killed - min(lost, default=killed)
    between = max(later - earlier for earlier, later in pairwise(await looks))
    with capsys.disabled():
        print(f"\n{len(lost)} of {len(handed)} lost, of the last {age:.2f} s; batches came {between:.2f} s apart")
    # One batch is under way and the next one gathers: on an idle machine that is BATCH_S and some milliseconds.
    assert age <= 2 * max(between, BATCH_S)


async def look(database: AsyncEngine) -> list[float]:
    """Wait for four batches; when each was seen first."""
    seen: list[float] = []
    rows = 0
    while len(seen) < 4:
        async with database.connect() as connection:
            now = (await connection.execute(text("SELECT count(*) FROM request_log"))).scalar_one()
        if now > rows:
            rows = now
            seen.append(time.monotonic())
        await asyncio.sleep(0.02)
    return seen
