"""What a `kill -9` loses: the batch that is being written and the one that gathers."""

import asyncio
import signal
import sys

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.log.usage_report import usage
from tests.conftest import until
from tests.monitors.conftest import written
from tests.monitors.log.killed_recorder import BATCH_ROWS


async def test_a_killed_process_loses_at_most_two_batches(
    database: AsyncEngine, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is there is the beginning without a gap, in whole batches, with sums that agree."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.monitors.log.killed_recorder", database_url), stdout=asyncio.subprocess.PIPE
    )

    async def enough() -> bool:
        return len(await written(database)) >= 10 * BATCH_ROWS

    reading = asyncio.create_task(process.communicate())
    try:
        await until(enough, seconds=60)
    finally:
        process.send_signal(signal.SIGKILL)
    out, _ = await reading
    handed = int(out[: out.rindex(b"\n")].split()[-1]) + 1
    found = await written(database)
    assert found == [str(number) for number in range(len(found))]
    (row,) = await usage(database, by=(), per="all")
    assert row.requests == len(found)
    with capsys.disabled():
        print(f"\n{handed - len(found)} of {handed} lost, in batches of {BATCH_ROWS}")
    assert handed - len(found) <= 2 * BATCH_ROWS
