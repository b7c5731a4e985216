"""Uploaded files: who sent them, what they are for, and where their content is.

Files with the same content share one artifact. A file's row is there before its content, and marked as deleted before
that goes, so a process that is killed at any moment leaves no content without a row, and shows no file without content;
`Files.sweep` does what it had not come to. Whoever adds a row or removes content holds a lock on the digest.
"""

import asyncio
import contextlib
import logging
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, and_, func, insert, or_, select, tuple_, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from registry.artifacts import Artifact, ArtifactStore, artifact_of
from registry.building import built
from registry.database import writing
from registry.errors import NotFound, StoreFailure
from registry.tuning.changes import Changes
from registry.tuning.needs import is_needed, require_unneeded
from registry.tuning.tables import FileRow

log = logging.getLogger(__name__)

CONTENT = "content"
"""The name of the one file in a file's artifact."""
REMOVED_AGAIN_FOR = timedelta(minutes=10)
"""How long after its end a file's content is looked for again: a removal may have failed, and copies lie elsewhere."""
SENT_WITHIN = timedelta(hours=1)
"""How long content may be on its way to the store; a row that has none after that is cleared away."""
_AT_ONCE = 100
_MOST_FAILURES = 3
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
        self._changes = Changes(engine)
        self.store = store

    async def keep(
        self,
        new: NewFile,
        content: Path | bytes,
        *,
        key_id: str,
        actor: str | None = None,
        once: bool = False,
    ) -> FileRow:
        """Store content, and keep it as a file of that key; audited where an actor sent it.

        With `once`, the file that the key has already is kept, if one has that name, purpose and content.

        Raises:
            StoreFailure: the store could not be written; there is no such file.
        """
        files = {CONTENT: content}
        row = _row(new, await asyncio.to_thread(artifact_of, files), key_id)
        async with writing(self._engine) as connection:
            await _lock(connection, row.digest)  # who removes the same content has done so, or will see this row
            if once and (known := await _same(connection, row)) is not None:
                return known
            await connection.execute(insert(_FILES).values(row.model_dump()))
        try:
            await asyncio.to_thread(self.store.put_files, files)
            return await self._show(row, actor)
        except BaseException:
            await self._take_back(row)
            raise

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
            return await built(await connection.execute(query), _file)

    async def delete(self, file_id: str, *, actor: str, key_id: str | None = None) -> None:
        """Delete a file, with its content if no other file has the same.

        The file is gone in any case; content that cannot be removed now goes with a later sweep.

        Raises:
            NotFound
            Conflict: a job that has not ended needs it.
        """
        async with self._changes.change(actor) as change:
            connection = await change.session.connection()
            file = await _required(connection, file_id, key_id, locked=True)
            await require_unneeded(connection, file_id)
            await connection.execute(update(_FILES).where(_FILES.c.id == file_id).values(deleted_at=datetime.now(UTC)))
            change.audit("delete_file", f"file:{file_id}", before=_audited(file))
        try:
            await self._clear(file.digest)
        except (StoreFailure, SQLAlchemyError, OSError, TimeoutError) as error:
            log.warning("the content of the deleted file %s stays for now: %s", file_id, type(error).__name__)

    async def sweep(self) -> None:
        """Delete files whose time is over, and remove what content is left of deleted ones.

        A file that an open job needs stays for now, and so does content that a store cannot remove.

        Raises:
            StoreFailure: some content could not be removed.
        """
        now = datetime.now(UTC)
        await self._end_what_is_over(now)
        await self._clear_what_is_left(now)

    def content(self, file: FileRow) -> Path:
        """The file's content, on this machine, held against its digest; may take as long as a download.

        Raises:
            StoreFailure
        """
        return self.store.fetch(file.digest) / CONTENT

    async def _show(self, row: FileRow, actor: str | None) -> FileRow:
        """Have everybody see a file whose content is stored."""
        if actor is None:
            async with writing(self._engine) as connection:
                return await _stored(connection, row.id)
        async with self._changes.change(actor) as change:
            file = await _stored(await change.session.connection(), row.id)
            change.audit("create_file", f"file:{row.id}", after=_audited(file))
        return file

    async def _take_back(self, row: FileRow) -> None:
        """Forget a file that could not be kept, as far as the database answers; a sweep does the rest."""
        with contextlib.suppress(Exception):
            async with writing(self._engine) as connection:
                mine = update(_FILES).where(_FILES.c.id == row.id, _FILES.c.deleted_at.is_(None))
                await connection.execute(mine.values(deleted_at=datetime.now(UTC)))
            await self._clear(row.digest)

    async def _end_what_is_over(self, now: datetime) -> None:
        """Mark as deleted what nobody needs; looked for outside of the transactions that write."""
        in_vain = and_(~_FILES.c.is_stored, _FILES.c.created_at < now - SENT_WITHIN)
        over = (_FILES.c.deleted_at.is_(None), or_(_FILES.c.expires_at <= now, in_vain), ~is_needed())
        while True:
            async with self._engine.connect() as connection:
                found = await connection.execute(select(_FILES.c.id).where(*over).order_by(_FILES.c.id).limit(_AT_ONCE))
                ids = list(found.scalars())
            if not ids:
                return
            async with writing(self._engine) as connection:
                these = _FILES.c.id.in_(ids)
                await connection.execute(select(_FILES.c.id).where(these).order_by(_FILES.c.id).with_for_update())
                # Again, now that nobody can begin a job with them: one may have been made since.
                await connection.execute(update(_FILES).where(these, *over).values(deleted_at=now))

    async def _clear_what_is_left(self, now: datetime) -> None:
        """Remove the content of deleted files; each gateway does, for a while, as it may have a copy."""
        recently = _FILES.c.deleted_at > now - REMOVED_AGAIN_FOR
        left = and_(_FILES.c.deleted_at.is_not(None), or_(~_FILES.c.is_cleared, recently))
        digests = select(_FILES.c.digest).where(left).distinct().order_by(_FILES.c.digest).limit(_AT_ONCE)
        failures, last = 0, ""
        while True:
            async with self._engine.connect() as connection:
                found = list((await connection.execute(digests.where(_FILES.c.digest > last))).scalars())
            for digest in found:
                try:
                    await self._clear(digest)
                except StoreFailure:
                    failures += 1
                    if failures >= _MOST_FAILURES:  # the store is away; one artifact that it cannot remove stops nobody
                        raise
            if len(found) < _AT_ONCE:
                return
            last = found[-1]

    async def _clear(self, digest: str) -> None:
        """Remove content that no file has any more, and note that.

        Raises:
            StoreFailure
        """
        async with writing(self._engine) as connection:
            await _lock(connection, digest)
            same = _FILES.c.digest == digest
            kept = select(_FILES.c.id).where(same, _FILES.c.deleted_at.is_(None)).limit(1)
            if (await connection.execute(kept)).first() is None:
                await asyncio.to_thread(self.store.remove, digest)
            gone = update(_FILES).where(same, _FILES.c.deleted_at.is_not(None), ~_FILES.c.is_cleared)
            await connection.execute(gone.values(is_cleared=True))


async def _lock(connection: AsyncConnection, digest: str) -> None:
    """Be the only one that adds files of that content, or removes it, until the transaction ends.

    In SQLite a transaction that writes is alone as it is.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(select(func.pg_advisory_xact_lock(int(digest[:15], 16))))


async def _same(connection: AsyncConnection, row: FileRow) -> FileRow | None:
    """The file that is there already and is the same, but for its id and its time."""
    same = (_FILES.c[name] == getattr(row, name) for name in ("digest", "key_id", "filename", "purpose"))
    query = select(_FILES).where(_is_there(), *same).order_by(_FILES.c.created_at, _FILES.c.id).limit(1)
    found = (await connection.execute(query)).first()
    return None if found is None else _file(found)


async def _stored(connection: AsyncConnection, file_id: str) -> FileRow:
    """The file, whose content is there from now on."""
    mine = update(_FILES).where(_FILES.c.id == file_id, _FILES.c.deleted_at.is_(None))
    shown = mine.values(is_stored=True, created_at=datetime.now(UTC)).returning(_FILES)
    row = (await connection.execute(shown)).first()
    if row is None:
        raise StoreFailure("the artifact store could not be written in time")
    return _file(row)


def _audited(file: FileRow) -> dict[str, Any]:
    return {"filename": file.filename, "purpose": file.purpose, "bytes": file.size_bytes}


def _row(new: NewFile, content: Artifact, key_id: str) -> FileRow:
    return FileRow(
        id=f"file-{secrets.token_hex(12)}",
        key_id=key_id,
        filename=new.filename,
        purpose=new.purpose,
        size_bytes=content.size_bytes,
        digest=content.digest,
        expires_at=new.expires_at,
    )


def _is_there() -> ColumnElement[bool]:
    in_time = or_(_FILES.c.expires_at.is_(None), _FILES.c.expires_at > datetime.now(UTC))
    return and_(_FILES.c.deleted_at.is_(None), _FILES.c.is_stored, in_time)


def _of(key_id: str | None) -> tuple[ColumnElement[bool], ...]:
    return () if key_id is None else (_FILES.c.key_id == key_id,)


async def _required(
    connection: AsyncConnection,
    file_id: str,
    key_id: str | None,
    *,
    also_expired: bool = False,
    locked: bool = False,
) -> FileRow:
    there = and_(_FILES.c.deleted_at.is_(None), _FILES.c.is_stored) if also_expired else _is_there()
    query = select(_FILES).where(_FILES.c.id == file_id, there, *_of(key_id))
    if locked:
        query = query.with_for_update()
    row = (await connection.execute(query)).first() if "\0" not in file_id else None
    if row is None:
        raise NotFound(f"there is no file {file_id!r}", param="file_id")
    return _file(row)


def _file(row: Any) -> FileRow:
    return FileRow(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
