"""What tests of webhooks share: receivers, and a monitor's workshop."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.watch.work import Workshop
from tests.fakes.receiver import Receiver
from tests.monitors.judging.rows import workshop


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that listens."""
    found = Receiver()
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
async def another() -> AsyncIterator[Receiver]:
    """A second one."""
    found = Receiver()
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
def shop(database: AsyncEngine, tmp_path: Path) -> Workshop:
    """What the job works with."""
    return workshop(database, tmp_path)
