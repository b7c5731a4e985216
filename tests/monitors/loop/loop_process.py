"""A monitor that can be killed: `python -m ... FOLDER GATEWAY KEY PLACE NTH DATABASE STORE`.

It runs the loop under a lease. At the n-th call of the gateway whose name begins with the place it touches the file
`there` in the folder and goes on no more.
"""

import asyncio
import sys
from pathlib import Path

from monitors.loop.controller import LoopJob
from monitors.watch.loop import MonitorLoop
from monitors.watch.metrics import MonitorMetrics
from registry.artifacts import ArtifactStore
from registry.database import connect
from tests.monitors.loop.stories import Points, World

LEASE_S, RENEW_S = 2.0, 0.05


class Stopping(Points):
    """Stops for ever at the place."""

    folder: Path
    place: str
    nth: int

    async def __call__(self, place: str) -> None:
        """The monitor is there now."""
        self.passed.append(place)
        if sum(each.startswith(self.place) for each in self.passed) == self.nth:
            (self.folder / "there").touch()
            await asyncio.sleep(600)


async def main() -> None:
    """Work until killed."""
    folder, gateway, key, place, nth, url, store = sys.argv[1:]
    points = Stopping()
    points.folder, points.place, points.nth = Path(folder), place, int(nth)
    world = World(gateway, key, connect(url), ArtifactStore(store, Path(folder)), Path(folder))
    job = LoopJob(world.workshop(points), world.told)
    loop = MonitorLoop(
        world.registry, world.registry.catalog, MonitorMetrics(), lambda: [job], lease_s=LEASE_S, renew_s=RENEW_S
    )
    await loop.run()


if __name__ == "__main__":
    asyncio.run(main())
