"""What the stages of a job work with."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from monitors.watch.client import GatewayClient
from registry.artifacts import ArtifactStore
from registry.outages import is_outage
from registry.registry import Registry
from registry.transactions import Guard
from registry.tuning.datasets import Datasets
from registry.tuning.events import Events, Level, NewEvent
from registry.tuning.files import CONTENT, Files
from registry.tuning.jobs import Jobs
from registry.tuning.orders import TuningOrder
from registry.tuning.tables import FileRow, TuningJobRow
from tuner.code_version import CodeVersion
from tuner.control import Control
from tuner.errors import Interrupted
from tuner.launching import child_command
from tuner.metrics import TunerMetrics
from tuner.settings import TunerSettings
from tuner.workspace import Task, Workspace

T = TypeVar("T")
ChildCommand = Callable[[TunerSettings, Workspace, Task], Sequence[str]]
_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Shop:
    """What every job works with.

    Attributes:
        gateway: serves candidates for their evaluation, like any version.
        code: which code this process runs.
        child_command: how to start the child that does a task.
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
    code: CodeVersion
    child_command: ChildCommand = child_command


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
            Interrupted: the database was away until the job was lost.
        """
        await self.insist(lambda: self.shop.jobs.note(self.job.id, self.worker, **values))
        for name, value in values.items():
            setattr(self.job, name, value)

    async def tell(self, message: str, level: Level = "info") -> None:
        """Add an event for the client to read.

        Raises:
            JobLost
            Interrupted: the database was away until the job was lost.
        """
        await self.insist(lambda: self.shop.jobs.tell_all(self.job.id, self.worker, [NewEvent(message, level)]))

    @property
    def guard(self) -> Guard:
        """Has a change of the registry fail with `JobLost` unless this worker holds the job still."""
        return self.shop.jobs.guard(self.job.id, self.worker)

    async def fetch(self, digest: str) -> Path:
        """The folder on this machine with an artifact's files; what was copied for it goes with the job's workspace.

        Raises:
            StoreFailure
        """
        return await asyncio.to_thread(self.shop.store.fetch, digest, self.workspace.fetched)

    async def upload(self, file: FileRow) -> Path:
        """An uploaded file's content, on this machine.

        Raises:
            StoreFailure
        """
        return (await self.fetch(file.digest)) / CONTENT

    async def insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of a call to the database, tried again while that is away and the job is still held.

        Raises:
            Interrupted: it was away until the job was lost.
        """
        while True:
            try:
                return await call()
            except Exception as error:
                if not is_outage(error):
                    raise
                if self.control.cause == "lost":
                    raise Interrupted("lost") from error
            await asyncio.sleep(_PAUSE_S)
