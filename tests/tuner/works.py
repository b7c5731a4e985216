"""A job at work, with no more behind it than a test needs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import httpx

from monitors.watch.client import GatewayClient
from registry.artifacts import ArtifactStore
from registry.base_model import BaseSpec, read_config
from registry.registry import Registry
from registry.tuning.events import Events, NewEvent
from registry.tuning.jobs import Jobs
from registry.tuning.orders import TuningOrder
from registry.tuning.tables import TuningJobRow
from tuner.code_version import CodeVersion
from tuner.control import Control
from tuner.metrics import TunerMetrics
from tuner.settings import TunerSettings
from tuner.shop import AtWork, Shop
from tuner.workspace import Workspace

BASE_MODEL = Path(__file__).parents[2] / "demo" / "base"
ORDER = TuningOrder(adapter="support", base="tiny", training_file="file-1")
Handler = Callable[[httpx.Request], httpx.Response]


class Held:
    """In place of the jobs: one that is held, and what it said."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    async def tell_all(self, _job: str, _worker: str, events: Sequence[NewEvent]) -> None:
        """Remember them, but for those of metrics."""
        self.messages += [f"{event.level}: {event.message}" for event in events if event.data is None]

    async def note(self, _job: str, _worker: str, **values: Any) -> None:
        """Nobody else reads it."""


def nobody(request: httpx.Request) -> httpx.Response:
    """A gateway that is away."""
    raise httpx.ConnectError("nobody listens", request=request)


def at_work(
    folder: Path,
    order: TuningOrder = ORDER,
    *,
    gateway: Handler = nobody,
    registry: Registry | None = None,
    store: ArtifactStore | None = None,
    base: BaseSpec | None = None,
    **settings: Any,
) -> AtWork:
    """A job that is held, before a gateway that answers by a function."""
    found = TunerSettings(
        home=folder, cache=folder / "cache", base="tiny", base_model=str(BASE_MODEL), api_key="k", **settings
    )
    spec = base or BaseSpec("tiny", config=read_config(str(BASE_MODEL)), source=str(BASE_MODEL))
    shop = Shop(
        settings=found,
        jobs=cast(Jobs, Held()),
        events=cast(Events, None),
        files=cast(Any, None),
        datasets=cast(Any, None),
        registry=registry or Registry(cast(Any, None), cast(Any, store), (spec,)),
        store=cast(Any, store),
        gateway=GatewayClient("http://gateway", "k", concurrency=2, transport=httpx.MockTransport(gateway)),
        metrics=TunerMetrics(),
        code=CodeVersion("0.1.0", "c" * 40, changed=False),
    )
    job = TuningJobRow(
        id="ftjob-1",
        key_id="key",
        adapter=order.adapter,
        base=order.base,
        model=order.base,
        order={},
        state="running",
        stage="fitness",
        wanted="run",
        asked="0" * 64,
        created_by="ann",
        dataset="d" * 64,
    )
    workspace = Workspace(folder / "cache" / "tuner" / job.id)
    workspace.folder.mkdir(parents=True, exist_ok=True)
    return AtWork(job, order, "worker", workspace, Control(), shop)


def said(work: AtWork) -> list[str]:
    """What the job said of itself."""
    return cast(Held, work.shop.jobs).messages
