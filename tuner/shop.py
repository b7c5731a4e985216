"""What the stages of a job work with."""

from dataclasses import dataclass
from typing import Any

from monitors.watch.client import GatewayClient
from registry.artifacts import ArtifactStore
from registry.registry import Registry
from registry.tuning.datasets import Datasets
from registry.tuning.events import Events, Level
from registry.tuning.files import Files
from registry.tuning.jobs import Jobs
from registry.tuning.orders import TuningOrder
from registry.tuning.tables import TuningJobRow
from tuner.control import Control
from tuner.metrics import TunerMetrics
from tuner.settings import TunerSettings
from tuner.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Shop:
    """What every job works with.

    Attributes:
        gateway: serves candidates for their evaluation, like any version.
    """

    settings: TunerSettings
    jobs: Jobs
    events: Events
    files: Files
    datasets: Datasets
    registry: Registry
    store: ArtifactStore
    gateway: GatewayClient
    metrics: TunerMetrics


@dataclass(slots=True)
class AtWork:
    """A job that this worker holds.

    Attributes:
        job: its row, as of the last look; `note` keeps it true.
        worker: the name under which it is held.
    """

    job: TuningJobRow
    order: TuningOrder
    worker: str
    workspace: Workspace
    control: Control
    shop: Shop

    async def note(self, **values: Any) -> None:
        """Write columns of the job's row.

        Raises:
            JobLost
        """
        await self.shop.jobs.note(self.job.id, self.worker, **values)
        for name, value in values.items():
            setattr(self.job, name, value)

    async def tell(self, message: str, level: Level = "info") -> None:
        """Add an event for the client to read."""
        await self.shop.events.tell(self.job.id, message, level=level)
