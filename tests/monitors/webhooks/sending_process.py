"""A monitor's webhooks that can be killed: `python -m ... DATABASE FOLDER`; it tells what is due, and then waits."""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from monitors.webhooks.job import WebhookJob
from registry.catalog import Catalog
from registry.database import connect
from tests.monitors.judging.rows import workshop


async def main() -> None:
    """Work until killed."""
    url, folder = sys.argv[1:]
    job = WebhookJob(workshop(connect(url), Path(folder)))
    await job.run(Catalog(1, MappingProxyType({})), datetime.now(UTC))
    await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main())
