"""Datasets: what an adapter's versions were made from."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.admin.monitoring import known_adapter
from gateway.directory import Directory
from gateway.refusals import refusals
from gateway.shapes import Page
from registry.tuning.datasets import Datasets
from registry.tuning.orders import Method
from registry.tuning.tables import DatasetRow


class DatasetShape(msgspec.Struct, frozen=True):
    """A frozen dataset, known by its digest.

    `counts` are rows by split, `sources` rows by where their labels came from, `parents` the digests of the datasets
    that it follows (of the version that is replayed, of the one that the job goes on from, and of the one that served),
    `report` what was left out, and why. `job` made it.
    """

    id: int
    digest: str
    method: Method
    size_bytes: int
    counts: dict[str, int]
    sources: dict[str, int]
    parents: list[str]
    report: dict[str, Any]
    job: str
    created_at: datetime


class DatasetController(Controller):
    """Datasets."""

    path = "/adapters/{name:str}/datasets"
    tags = ("Datasets",)

    @get("/", summary="List datasets", responses=refusals(404))
    async def list_datasets(
        self,
        name: FromPath[str],
        database: NamedDependency[AsyncEngine],
        directory: NamedDependency[Directory],
        limit: Annotated[int, QueryParameter(name="limit", ge=1, le=1000)] = 100,
        before: Annotated[int | None, QueryParameter(name="before", ge=1, le=2**31 - 1)] = None,
    ) -> Page[DatasetShape]:
        """What the adapter's versions were made from, newest first; `before` goes on from a dataset's id."""
        known_adapter(directory, name)
        rows = await Datasets(database).listed(name, before=before, limit=limit + 1)
        return Page([_shape(row) for row in rows[:limit]], has_more=len(rows) > limit)


def _shape(row: DatasetRow) -> DatasetShape:
    return msgspec.convert(row.model_dump(), DatasetShape)
