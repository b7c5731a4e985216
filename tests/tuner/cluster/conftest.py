"""A dispatcher before a fake API server and a real database."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import ApiClient, Configuration
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.database import connect
from registry.tuning.dispatch import Dispatch
from registry.tuning.tables import TuningJobRow
from tests.conftest import until
from tests.fakes.kubelet import Kubelet
from tests.fakes.kubernetes import NAMESPACE, FakeCluster
from tests.tuner.shops import ask, shop_of, state_of, tuner_settings
from tuner.cluster.api import Cluster
from tuner.cluster.dispatcher import Dispatcher
from tuner.cluster.metrics import ClusterMetrics
from tuner.cluster.template import Limits, Template, read_template
from tuner.settings import TunerSettings
from tuner.shop import Shop

JOB_TEMPLATE = """
apiVersion: batch/v1
kind: Job
metadata:
  labels: {kueue.x-k8s.io/queue-name: gpus}
spec:
  template:
    metadata: {labels: {app.kubernetes.io/component: tuning-job}}
    spec:
      nodeSelector: {accelerator: h200}
      tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
      containers:
        - name: tuner
          image: ostler/tuner:0.1.0
          env: [{name: OSTLER_BASE, value: tiny}]
          resources: {limits: {nvidia.com/gpu: 1}}
"""
TRAIN_JOB_TEMPLATE = """
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainJob
spec:
  runtimeRef: {name: torch-distributed}
  trainer:
    image: ostler/tuner:0.1.0
    numNodes: 2
    env: [{name: OSTLER_BASE, value: tiny}]
"""
_PATIENCE_S = 30.0
LIMITS = Limits(deadline_s=None, ttl_s=3600)


def template_of(folder: Path, text: str = JOB_TEMPLATE, limits: Limits = LIMITS) -> Template:
    """The template of a file with that text."""
    file = folder / "template.yaml"
    file.write_text(text)
    return read_template(file, limits)


def cluster_of(fake: FakeCluster) -> Cluster:
    """The official client before the fake server."""
    settings = Configuration(host=fake.url)
    settings.retries = 0
    return Cluster(ApiClient(settings), NAMESPACE)


@dataclass
class World:
    """A fake cluster, a database with jobs, and dispatchers.

    Attributes:
        ahead: how far the dispatchers' clock is ahead.
        swept: how often a dispatcher has tidied up.
        looks: how often one has looked for jobs.
    """

    fake: FakeCluster
    shop: Shop
    folder: Path
    settings: TunerSettings
    template: Template
    ahead: timedelta = timedelta()
    swept: int = 0
    looks: int = 0
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)

    def now(self) -> datetime:
        """The dispatchers' time."""
        return datetime.now(UTC) + self.ahead

    def later_by(self, seconds: float) -> bool:
        """Let time pass; true."""
        self.ahead += timedelta(seconds=seconds)
        return True

    @contextlib.asynccontextmanager
    async def dispatching(self, template: Template | None = None, **settings: Any) -> AsyncIterator[Dispatcher]:
        """A dispatcher at work beside the block."""
        self.metrics = CollectorRegistry()
        database = connect(self.settings.database)
        dispatcher = Dispatcher(
            self.settings.model_copy(update=settings),
            _Looking(database, self),
            cluster_of(self.fake),
            template or self.template,
            ClusterMetrics(self.metrics),
            sweep=self._sweep,
            now=self.now,
            pause_s=0.02,
        )
        task = asyncio.create_task(dispatcher.run())
        try:
            yield dispatcher
        finally:
            dispatcher.stop()
            await asyncio.wait_for(task, 10)
            await database.dispose()

    async def ask(self, adapter: str = "support") -> str:
        """A new job's id."""
        return await ask(self.shop, adapter)

    async def made(self, count: int = 1) -> list[str]:
        """The names of the objects, once there are so many, in the order in which they were made."""
        await until(lambda: len(self.fake.objects(self.plural)) == count, _PATIENCE_S)
        return list(self.fake.objects(self.plural))

    async def pod(self) -> Kubelet:
        """The kubelet of the only object's pod, which is there and waits."""
        (name,) = await self.made()
        kubelet = Kubelet(self.fake, name, self.plural, self.template.container)
        kubelet.make_pod()
        return kubelet

    async def held(self, job_id: str, name: str) -> str:
        """Claim a job as the tuner in an object's pod does; that tuner's name."""
        worker = f"{name}-0123456789ab"
        assert await self.shop.jobs.claim(worker, bases=["tiny"], lease_s=60.0, job_id=job_id) is not None
        return worker

    @property
    def plural(self) -> str:
        """Of the template's kind."""
        return self.template.kind.plural

    async def said(self, job_id: str) -> str:
        """What a job has said, a line each."""
        events = await self.shop.events.listed(job_id, limit=1000)
        return "\n".join(event.message for event in reversed(events))

    async def until_said(self, job_id: str, words: str) -> None:
        """Wait until a job says so."""

        async def is_said() -> bool:
            return words in await self.said(job_id)

        await until(is_said, _PATIENCE_S)

    async def until_gone(self, name: str) -> None:
        """Wait until an object is not there any more."""
        await until(lambda: name not in self.fake.objects(self.plural), _PATIENCE_S)

    async def look_again(self) -> None:
        """Wait until the dispatchers have looked at everything anew, a few times."""
        enough = self.looks + 4
        await until(lambda: self.looks >= enough, _PATIENCE_S)

    async def state(self, job_id: str) -> str:
        """A job's."""
        return await state_of(self.shop, job_id)

    def until_in(self, job_id: str, state: str) -> Callable[[], Any]:
        """A condition: the job's state."""

        async def holds() -> bool:
            return await self.state(job_id) == state

        return holds

    async def _sweep(self) -> None:
        self.swept += 1


class _Looking(Dispatch):
    """Counts how often it is asked for jobs."""

    def __init__(self, engine: AsyncEngine, world: World) -> None:
        super().__init__(engine)
        self._world = world

    async def waiting(self, bases: Collection[str]) -> list[TuningJobRow]:
        """As a dispatch does."""
        self._world.looks += 1
        return await super().waiting(bases)


@pytest.fixture
async def world(tmp_path: Path, sqlite_template: Path) -> AsyncIterator[World]:
    """A world on SQLite, whose template is a Job."""
    file = tmp_path / "ostler.db"
    file.write_bytes(sqlite_template.read_bytes())
    settings = tuner_settings(tmp_path, f"sqlite:///{file}")
    fake = FakeCluster()
    await fake.start()
    shop = shop_of(settings, connect(settings.database))
    yield World(fake, shop, tmp_path, settings, template_of(tmp_path))
    await fake.stop()
    await shop.jobs._engine.dispose()
