"""A tuner's process that can be killed: `python -m tests.tuner.worker_process FOLDER DATABASE SCRIPT PLACE`.

At the place it touches the file `there` in the folder and goes on no more; an empty place is nowhere.
"""

import asyncio
import signal
import sys
from pathlib import Path

import msgspec

from registry.database import connect
from tests.tuner.fake_child import Script
from tests.tuner.shops import shop_of, stages, tuner_settings
from tuner.worker import Worker


async def main() -> None:
    """Work until SIGTERM."""
    folder, url, script, place = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]

    async def pause(here: str) -> None:
        if here == place:
            (folder / "there").touch()
            await asyncio.sleep(600)

    settings = tuner_settings(folder, url)
    shop = shop_of(settings, connect(url), msgspec.json.decode(script, type=Script), pause)
    worker = Worker(shop, stages(pause))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run()


asyncio.run(main())
