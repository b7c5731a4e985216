"""Uploaded files: who sent them, what they are for, and where their content is.

Files with the same content share one artifact. Whoever keeps a file or removes content holds a lock on the digest, so
content that a file refers to is there.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, and_, func, insert, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from registry.artifacts import ArtifactStore
from registry.database import writing
from registry.errors import NotFound, StoreFailure
from registry.tuning.tables import FileRow

CONTENT = "content"
"""The name of the one file in a file's artifact."""
REMOVED_AGAIN_FOR = timedelta(minutes=10)
"""How long after its end a file's content is looked for again: a removal may have failed, and copies lie elsewhere."""
_MOST_AT_ONCE = 100
_MOST_ROUNDS = 3
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

    async def keep(self, new: NewFile, content: Path | bytes, *, key_id: str) -> FileRow:
        """Store content, and keep it as a file of that key.

        Raises:
            StoreFailure: the store could not be written; there is no such file.
        """
        for _ in range(_MOST_ROUNDS):
            stored = await asyncio.to_thread(self.store.put_files, {CONTENT: content})
            row = _row(new, stored.digest, stored.size_bytes, key_id)
            try:
                if await self._add(row):
                    return row
            except BaseException:
                await self._drop_what_nobody_has(stored.digest)
                raise
        raise StoreFailure("the artifact store does not keep what is written to it")

    async def find(self, file_id: str, *, key_id: str | None = None, also_expired: bool = False) -> FileRow:
        """A file; of one key alone, where that is given.

        `also_expired` finds one whose time is over while it is not swept yet, as a job may that was asked for in time.

        Raises:
            NotFound: there is none, or it was deleted, or its time is over.
        """
        async with self._engine.connect() as connection:
            return await _required(connection, file_id, key_id, also_expired=also_expired)

    async def listed(
        self,
        *,
        key_id: str | None = None,
        purpose: str | None = None,
        after: str | None = None,
        newest_first: bool = True,
        limit: int,
    ) -> list[FileRow]:
        """Files by when they came; `after` goes on from a file's id, also of one that is deleted by now.

        Raises:
            NotFound: `after` never was a file of theirs.
        """
        place = tuple_(_FILES.c.created_at, _FILES.c.id)
        query = select(_FILES).where(_is_there(), *_of(key_id)).limit(limit)
        for column in (_FILES.c.created_at, _FILES.c.id):
            query = query.order_by(column.desc() if newest_first else column)
        if purpose is not None:
            query = query.where(_FILES.c.purpose == purpose)
        async with self._engine.connect() as connection:
            if after is not None:
                mark = select(_FILES.c.created_at, _FILES.c.id).where(_FILES.c.id == after, *_of(key_id))
                if "\0" in after or (await connection.execute(mark)).first() is None:
                    raise NotFound(f"there is no file {after!r} to go on from", param="after")
                query = query.where(place < mark.scalar_subquery() if newest_first else place > mark.scalar_subquery())
            return [_file(row) for row in await connection.execute(query)]

    async def delete(self, file_id: str, *, key_id: str | None = None) -> None:
        """Delete a file, with its content if no other file has the same.

        Raises:
            NotFound
            StoreFailure: the content could not be removed; the file is as it was.
        """
        async with writing(self._engine) as connection:
            file = await _required(connection, file_id, key_id)
            await self._end(connection, file)

    async def sweep(self, is_needed: Callable[[str], Awaitable[object]]) -> None:
        """Delete files whose time is over, and remove what content is left of those deleted in the last ten minutes.

        A file that `is_needed` (given its id) stays for now.

        Raises:
            StoreFailure
        """
        now = datetime.now(UTC)
        over = and_(_FILES.c.deleted_at.is_(None), _FILES.c.expires_at <= now)
        gone = _FILES.c.deleted_at > now - REMOVED_AGAIN_FOR
        query = select(_FILES).where(or_(over, gone)).order_by(_FILES.c.deleted_at.nulls_first()).limit(_MOST_AT_ONCE)
        async with self._engine.connect() as connection:
            files = [_file(row) for row in await connection.execute(query)]
        for file in files:
            if file.deleted_at is not None or not await is_needed(file.id):
                async with writing(self._engine) as connection:
                    await self._end(connection, file)

    def content(self, file: FileRow) -> Path:
        """The file's content, on this machine, held against its digest; may take as long as a download.

        Raises:
            StoreFailure
        """
        return self.store.fetch(file.digest) / CONTENT

    async def _add(self, row: FileRow) -> bool:
        """Add a row whose content is in the store; False if it was removed since, with another file's."""
        async with writing(self._engine) as connection:
            await _lock(connection, row.digest)
            if not await asyncio.to_thread(self.store.holds, row.digest):
                return False
            await connection.execute(insert(_FILES).values(row.model_dump()))
            return True

    async def _end(self, connection: AsyncConnection, file: FileRow) -> None:
        await _lock(connection, file.digest)
        gone = update(_FILES).where(_FILES.c.id == file.id, _FILES.c.deleted_at.is_(None))
        await connection.execute(gone.values(deleted_at=datetime.now(UTC)))
        await self._remove_unused(connection, file.digest)

    async def _remove_unused(self, connection: AsyncConnection, digest: str) -> None:
        """Remove content that no file has; the digest is locked."""
        same = select(_FILES.c.id).where(_FILES.c.digest == digest, _FILES.c.deleted_at.is_(None)).limit(1)
        if (await connection.execute(same)).first() is None:
            await asyncio.to_thread(self.store.remove, digest)

    async def _drop_what_nobody_has(self, digest: str) -> None:
        """Remove content whose file could not be kept, as far as the database answers."""
        with contextlib.suppress(Exception):
            async with writing(self._engine) as connection:
                await _lock(connection, digest)
                await self._remove_unused(connection, digest)


async def _lock(connection: AsyncConnection, digest: str) -> None:
    """Be the only one that adds files of that content, or removes it, until the transaction ends.

    In SQLite a transaction that writes is alone as it is.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(select(func.pg_advisory_xact_lock(int(digest[:15], 16))))


def _row(new: NewFile, digest: str, size_bytes: int, key_id: str) -> FileRow:
    return FileRow(
        id=f"file-{secrets.token_hex(12)}",
        key_id=key_id,
        filename=new.filename,
        purpose=new.purpose,
        size_bytes=size_bytes,
        digest=digest,
        expires_at=new.expires_at,
    )


def _is_there() -> ColumnElement[bool]:
    in_time = or_(_FILES.c.expires_at.is_(None), _FILES.c.expires_at > datetime.now(UTC))
    return and_(_FILES.c.deleted_at.is_(None), in_time)


def _of(key_id: str | None) -> tuple[ColumnElement[bool], ...]:
    return () if key_id is None else (_FILES.c.key_id == key_id,)


async def _required(
    connection: AsyncConnection, file_id: str, key_id: str | None, *, also_expired: bool = False
) -> FileRow:
    there = _FILES.c.deleted_at.is_(None) if also_expired else _is_there()
    query = select(_FILES).where(_FILES.c.id == file_id, there, *_of(key_id))
    row = (await connection.execute(query)).first() if "\0" not in file_id else None
    if row is None:
        raise NotFound(f"there is no file {file_id!r}", param="file_id")
    return _file(row)


def _file(row: Any) -> FileRow:
    return FileRow(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
