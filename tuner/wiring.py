"""What a tuner works with, wired: all but what trains, which a dispatcher has no libraries for."""

from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.watch.client import GatewayClient
from registry.artifacts import ArtifactStore
from registry.base_model import BaseSpec, read_config
from registry.registry import Registry
from registry.tuning.datasets import Datasets
from registry.tuning.events import Events
from registry.tuning.files import Files
from registry.tuning.jobs import Jobs
from tuner.code_version import CodeVersion
from tuner.metrics import TunerMetrics
from tuner.settings import TunerSettings
from tuner.shop import Shop


def shop_of(
    settings: TunerSettings,
    database: AsyncEngine,
    store: ArtifactStore,
    gateway: GatewayClient,
    metrics: TunerMetrics,
    code: CodeVersion,
) -> Shop:
    """What jobs work with, before a database and a store."""
    return Shop(
        settings=settings,
        jobs=Jobs(database),
        events=Events(database),
        files=Files(database, store),
        datasets=Datasets(database),
        registry=Registry(database, store, (_base(settings),)),
        store=store,
        gateway=gateway,
        metrics=metrics,
        code=code,
    )


def _base(settings: TunerSettings) -> BaseSpec:
    return BaseSpec(
        settings.base,
        aliases=frozenset({settings.base_model}),
        config=read_config(settings.base_model),
        max_lora_rank=settings.max_lora_rank,
        source=settings.base_model,
    )


def store_of(settings: TunerSettings) -> ArtifactStore:
    """The artifact store.

    Raises:
        ValueError: it cannot be used.
    """
    try:
        return ArtifactStore(settings.artifacts, settings.cache)
    except (ImportError, ValueError) as error:
        raise ValueError(f"the artifact store in OSTLER_ARTIFACTS_URL cannot be used: {error}") from error
