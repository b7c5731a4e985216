"""Uploaded files: who sent them, what they are for, and where their content is."""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import ColumnElement, and_, insert, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from registry.artifacts import ArtifactStore
from registry.database import writing
from registry.errors import NotFound
from registry.tuning.tables import FileRow

CONTENT = "content"
"""The name of the one file in a file's artifact."""
_FILES = FileRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model


@dataclass(frozen=True, slots=True)
class NewFile:
    """What is known of a file before its content is stored."""

    filename: str
    purpose: str
    expires_at: datetime | None = None


class Files:
    """Every uploaded file.

    Args:
        engine: the database, its schema up to date.
        store: where their content is.
    """

    def __init__(self, engine: AsyncEngine, store: ArtifactStore) -> None:
        self._engine = engine
        self.store = store

    async def add(self, new: NewFile, digest: str, size_bytes: int, *, key_id: str) -> FileRow:
        """Keep a file whose content is in the store."""
        row = FileRow(
            id=f"file-{secrets.token_hex(12)}",
            key_id=key_id,
            filename=new.filename,
            purpose=new.purpose,
            size_bytes=size_bytes,
            digest=digest,
            expires_at=new.expires_at,
        )
        async with writing(self._engine) as connection:
            await connection.execute(insert(_FILES).values(row.model_dump()))
        return row

    async def find(self, file_id: str, *, key_id: str | None = None) -> FileRow:
        """A file; of one key alone, where that is given.

        Raises:
            NotFound: there is none, or it was deleted, or its time is over.
        """
        async with self._engine.connect() as connection:
            return await _required(connection, file_id, key_id)

    async def listed(
        self,
        *,
        key_id: str | None = None,
        purpose: str | None = None,
        after: str | None = None,
        newest_first: bool = True,
        limit: int,
    ) -> list[FileRow]:
        """Files by when they came; `after` goes on from a file's id."""
        place = tuple_(_FILES.c.created_at, _FILES.c.id)
        query = select(_FILES).where(_is_there(), *_of(key_id)).limit(limit)
        for column in (_FILES.c.created_at, _FILES.c.id):
            query = query.order_by(column.desc() if newest_first else column)
        if purpose is not None:
            query = query.where(_FILES.c.purpose == purpose)
        if after is not None:
            mark = select(_FILES.c.created_at, _FILES.c.id).where(_FILES.c.id == after).scalar_subquery()
            query = query.where(place < mark if newest_first else place > mark)
        async with self._engine.connect() as connection:
            return [_file(row) for row in await connection.execute(query)]

    async def delete(self, file_id: str, *, key_id: str | None = None) -> str | None:
        """Delete a file; the digest of its content if no other file has the same, so that the store may drop it.

        Raises:
            NotFound
        """
        async with writing(self._engine) as connection:
            file = await _required(connection, file_id, key_id)
            gone = update(_FILES).where(_FILES.c.id == file_id).values(deleted_at=datetime.now(UTC))
            await connection.execute(gone)
            same = select(_FILES.c.id).where(_FILES.c.digest == file.digest, _is_there()).limit(1)
            return None if (await connection.execute(same)).first() else file.digest

    def content(self, file: FileRow) -> Path:
        """The file's content, on this machine, held against its digest; may take as long as a download.

        Raises:
            StoreFailure
        """
        return self.store.fetch(file.digest) / CONTENT


def _is_there() -> ColumnElement[bool]:
    in_time = or_(_FILES.c.expires_at.is_(None), _FILES.c.expires_at > datetime.now(UTC))
    return and_(_FILES.c.deleted_at.is_(None), in_time)


def _of(key_id: str | None) -> tuple[ColumnElement[bool], ...]:
    return () if key_id is None else (_FILES.c.key_id == key_id,)


async def _required(connection: AsyncConnection, file_id: str, key_id: str | None) -> FileRow:
    query = select(_FILES).where(_FILES.c.id == file_id, _is_there(), *_of(key_id))
    row = (await connection.execute(query)).first() if "\0" not in file_id else None
    if row is None:
        raise NotFound(f"there is no file {file_id!r}", param="file_id")
    return _file(row)


def _file(row: object) -> FileRow:
    return FileRow(**row._mapping)  # type: ignore[attr-defined]  # noqa: SLF001 - SQLAlchemy's public name for it
