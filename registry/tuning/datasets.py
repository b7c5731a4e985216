"""Datasets: what versions are made from, frozen in the artifact store and known by their digest."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.database import writing
from registry.tuning.tables import DatasetRow

_DATASETS = DatasetRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model


class Datasets:
    """The datasets of all adapters."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def register(self, dataset: DatasetRow) -> None:
        """Keep a dataset; one that the adapter has already stays as it is."""
        row = dataset.model_dump(exclude={"id"})
        async with writing(self._engine) as connection:
            insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            await connection.execute(insert(_DATASETS).values(row).on_conflict_do_nothing())

    async def find(self, adapter: str, digest: str) -> DatasetRow | None:
        """One dataset."""
        query = select(_DATASETS).where(_DATASETS.c.adapter == adapter, _DATASETS.c.digest == digest)
        async with self._engine.connect() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else DatasetRow(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it

    async def listed(self, adapter: str, *, before: int | None = None, limit: int) -> list[DatasetRow]:
        """The adapter's datasets, newest first; `before` goes on from a dataset's id."""
        query = select(_DATASETS).where(_DATASETS.c.adapter == adapter).order_by(_DATASETS.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(_DATASETS.c.id < before)
        async with self._engine.connect() as connection:
            rows = list(await connection.execute(query))
        return [DatasetRow(**row._mapping) for row in rows]  # noqa: SLF001
