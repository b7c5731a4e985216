"""What a job of the monitor is, and what it is given."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.settings import MonitorSettings
from monitors.watch.client import GatewayClient
from monitors.watch.metrics import MonitorMetrics
from registry.artifacts import ArtifactStore
from registry.catalog import Catalog


@dataclass(frozen=True, slots=True)
class Workshop:
    """What jobs work with.

    Attributes:
        database: everything that happened; the gateways write it.
        store: golden sets, training data and reports, by digest.
        gateway: answers the monitor's own requests, counted apart.
        judge: the endpoint of the LLM judge; None if there is none.
        scratch: a folder for what a job hands to a process of its own.
    """

    database: AsyncEngine
    store: ArtifactStore
    gateway: GatewayClient
    judge: GatewayClient | None
    metrics: MonitorMetrics
    settings: MonitorSettings
    scratch: Path


class Job(Protocol):
    """A piece of the monitor's work, done again and again while this monitor holds the lease.

    It may be stopped at any moment and begun again elsewhere, so whatever must not be done twice is claimed in the
    database first, or written in the same transaction as the mark that it is done.
    """

    name: str
    every_s: float

    async def run(self, catalog: Catalog, now: datetime, /) -> None:
        """Do what is due now."""
        ...
