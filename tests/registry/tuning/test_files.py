"""Files: what is kept, who sees it, and that content is there exactly as long as a file refers to it."""

import asyncio
import contextlib
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.artifacts import ArtifactStore
from registry.database import connect, writing
from registry.errors import Conflict, NotFound, StoreFailure
from registry.registry import Registry
from registry.tuning.files import SENT_WITHIN, Files, NewFile
from registry.tuning.jobs import Asker, Jobs
from registry.tuning.orders import TuningOrder
from registry.tuning.tables import FileRow, TuningJobRow
from tests.conftest import until

ROWS = b'{"messages": []}\n'
NEW = NewFile("rows.jsonl", "fine-tune")
HOUR = timedelta(hours=1)
_TABLE = FileRow.__table__  # type: ignore[attr-defined]


@pytest.fixture
def files(database: AsyncEngine, store: ArtifactStore) -> Files:
    """No files yet, in a database of each kind."""
    return Files(database, store)


def artifacts(files: Files, tmp_path: Path) -> list[str]:
    """The digests in the store; unfinished work counts, too."""
    return [path.name for folder in ("sha256", ".staging") for path in (tmp_path / "artifacts" / folder).glob("*")]


async def set_columns(files: Files, file_id: str | None = None, **values: Any) -> None:
    """Set columns of a file, or of all."""
    these = update(_TABLE) if file_id is None else update(_TABLE).where(_TABLE.c.id == file_id)
    async with writing(files._engine) as connection:
        await connection.execute(these.values(**values))


async def expire(files: Files, file: FileRow) -> None:
    """Let a file's time be over."""
    await set_columns(files, file.id, expires_at=datetime.now(UTC) - HOUR)


async def needed(files: Files, file: FileRow) -> TuningJobRow:
    """A job that needs that file."""
    job, _ = await Jobs(files._engine).create(TuningOrder("support", "tiny", file.id), "tiny", Asker("key_1", "ann"))
    return job


async def assert_gone(files: Files, file: FileRow) -> None:
    """It is neither found nor listed."""
    with pytest.raises(NotFound):
        await files.find(file.id)
    assert file.id not in [each.id for each in await files.listed(limit=100)]


async def test_a_file_is_kept_as_it_came(files: Files) -> None:
    """With its name, purpose, size, sender and times, and its content byte for byte."""
    until = datetime.now(UTC) + HOUR
    kept = await files.keep(NewFile("a.jsonl", "evals", until), ROWS, key_id="key_1")
    found = await files.find(kept.id)
    assert found.model_dump() == kept.model_dump()
    assert (found.filename, found.purpose, found.size_bytes, found.key_id) == ("a.jsonl", "evals", len(ROWS), "key_1")
    assert found.expires_at == until
    assert files.content(found).read_bytes() == ROWS
    assert found.id.startswith("file-")


async def test_a_key_finds_its_own_files_alone(files: Files) -> None:
    """Another key's file is found, listed, deleted and gone on from exactly as one that never was."""
    mine = await files.keep(NEW, b"mine", key_id="key_1")
    other = await files.keep(NEW, b"other", key_id="key_2")
    assert [file.id for file in await files.listed(key_id="key_1", limit=9)] == [mine.id]
    assert (await files.find(mine.id, key_id="key_1")).id == mine.id
    told = []
    for unseen in (other.id, "file-000000000000000000000000", "file-\0"):
        for call in (
            files.find(unseen, key_id="key_1"),
            files.delete(unseen, actor="ann", key_id="key_1"),
            files.listed(key_id="key_1", after=unseen, limit=9),
        ):
            with pytest.raises(NotFound) as raised:
                await call
            told.append((raised.value.message.replace(repr(unseen), "ID"), raised.value.param))
    assert told[:3] == told[3:6] == told[6:]
    assert (await files.find(other.id)).id == other.id


async def test_files_are_listed_page_by_page_in_both_orders(files: Files) -> None:
    """Every file once, also when one of a page before is deleted meanwhile; a purpose picks its own."""
    made = [
        await files.keep(NewFile(f"{n}", "evals" if n % 3 == 0 else "fine-tune"), b"%d" % n, key_id="k")
        for n in range(7)
    ]
    ids = [file.id for file in made]
    for newest_first in (True, False):
        seen: list[str] = []
        while page := await files.listed(after=seen[-1] if seen else None, newest_first=newest_first, limit=3):
            seen += [file.id for file in page]
        assert seen == (ids[::-1] if newest_first else ids)
    await files.delete(ids[3], actor="ann")
    assert [file.id for file in await files.listed(after=ids[3], limit=9)] == ids[2::-1]
    assert [file.id for file in await files.listed(purpose="evals", newest_first=False, limit=9)] == [ids[0], ids[6]]


async def test_a_file_is_kept_once_where_that_is_asked(files: Files) -> None:
    """The same name, purpose, key and content; one that was deleted, or is not whole, is none."""
    first = await files.keep(NEW, ROWS, key_id="key_1", once=True)
    assert await files.keep(NEW, ROWS, key_id="key_1", once=True) == first
    other = NewFile("other.jsonl", "fine-tune")
    others = [
        await files.keep(new, content, key_id=key, once=once)
        for new, content, key, once in (
            (NEW, b"other", "key_1", True),
            (other, ROWS, "key_1", True),
            (NewFile(NEW.filename, "evals"), ROWS, "key_1", True),
            (NEW, ROWS, "key_2", True),
            (NEW, ROWS, "key_1", False),
        )
    ]
    assert len({first.id, *(file.id for file in others)}) == 6
    await files.delete(others[-1].id, actor="ann")
    await set_columns(files, first.id, is_stored=False)
    again = await files.keep(NEW, ROWS, key_id="key_1", once=True)
    assert again.id not in {first.id, *(file.id for file in others)}


async def test_content_goes_with_the_last_file_that_has_it(files: Files, tmp_path: Path) -> None:
    """Two files of the same content share it; one of them is not enough to drop it."""
    first, second = [await files.keep(NEW, ROWS, key_id=key) for key in ("key_1", "key_2")]
    assert first.digest == second.digest
    await files.delete(first.id, actor="ann")
    await assert_gone(files, first)
    assert files.content(second).read_bytes() == ROWS
    await files.delete(second.id, actor="ann")
    assert artifacts(files, tmp_path) == []
    with pytest.raises(NotFound):
        await files.delete(second.id, actor="ann")


async def test_a_file_whose_time_is_over_is_gone_and_swept(files: Files, tmp_path: Path) -> None:
    """Nobody sees it any more; its content stays while a job needs it, which finds it still, and goes then."""
    file = await files.keep(NEW, ROWS, key_id="k")
    stays = await files.keep(NewFile("b", "evals", datetime.now(UTC) + HOUR), b"other", key_id="k")
    job = await needed(files, file)
    await expire(files, file)
    await assert_gone(files, file)
    await files.sweep()
    assert files.content(await files.find(file.id, also_expired=True)).read_bytes() == ROWS
    await Jobs(files._engine).wish(job.id, "cancel", actor="ann")
    await files.sweep()
    with pytest.raises(NotFound):
        await files.find(file.id, also_expired=True)
    assert artifacts(files, tmp_path) == [stays.digest]


async def test_content_that_an_expired_file_still_has_is_not_dropped(files: Files) -> None:
    """When the other file of the same content is deleted while a job needs the expired one."""
    over, other = [await files.keep(NEW, ROWS, key_id="k") for _ in range(2)]
    await expire(files, over)
    await files.delete(other.id, actor="ann")
    assert files.content(over).read_bytes() == ROWS


async def test_a_sweep_removes_what_a_deletion_left(files: Files, tmp_path: Path) -> None:
    """Such as this machine's copy of content that another gateway removed; never what a file has again."""
    file = await files.keep(NEW, ROWS, key_id="k")
    await files.delete(file.id, actor="ann")
    files.store.put_files({"content": ROWS})
    await files.sweep()
    assert artifacts(files, tmp_path) == []
    again = await files.keep(NEW, ROWS, key_id="k")
    await files.sweep()
    assert files.content(again).read_bytes() == ROWS


async def test_a_sweep_drops_this_machines_copy(database: AsyncEngine, tmp_path: Path) -> None:
    """Of what another machine deleted from an object store."""
    here, there = [
        Files(database, ArtifactStore(f"memory://{tmp_path.name}", tmp_path / machine)) for machine in ("here", "there")
    ]
    file, stays = [await here.keep(NEW, content, key_id="k") for content in (ROWS, b"stays")]
    assert there.content(file).read_bytes() == ROWS
    assert there.content(stays).read_bytes() == b"stays"
    await here.delete(file.id, actor="ann")
    assert (tmp_path / "there/sha256" / file.digest).exists()
    await there.sweep()
    assert [copy.name for copy in (tmp_path / "there/sha256").iterdir()] == [stays.digest]
    with pytest.raises(StoreFailure):
        there.content(file)


async def test_content_that_cannot_be_removed_goes_later(files: Files, tmp_path: Path) -> None:
    """The file is gone at once; sweeps try again for as long as it takes, and one such content stops no other."""
    file, other = [await files.keep(NEW, content, key_id="k") for content in (ROWS, b"other")]
    remove = files.store.remove

    def fails(digest: str) -> None:
        if digest == file.digest:
            raise StoreFailure("the artifact store could not be written: Input/output error")
        remove(digest)

    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(files.store, "remove", fails)
        await files.delete(file.id, actor="ann")
        await assert_gone(files, file)
        await expire(files, other)
        await files.sweep()
        assert artifacts(files, tmp_path) == [file.digest]
    await set_columns(files, file.id, deleted_at=datetime.now(UTC) - 9 * HOUR)
    await files.sweep()
    assert artifacts(files, tmp_path) == []


async def test_a_sweep_ends_where_the_store_is_away(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so."""
    for number in range(9):
        await expire(files, await files.keep(NEW, b"%d" % number, key_id="k"))
    tried: list[str] = []

    def fails(digest: str) -> None:
        tried.append(digest)
        raise StoreFailure("the artifact store could not be written: timed out")

    monkeypatch.setattr(files.store, "remove", fails)
    with pytest.raises(StoreFailure):
        await files.sweep()
    assert len(tried) == 3


KILLED = """
import asyncio, os, sys
from pathlib import Path
from registry.artifacts import ArtifactStore
from registry.database import connect
from registry.tuning.files import Files, NewFile

url, folder, method, file_id = sys.argv[1:]
store = ArtifactStore(folder, Path(folder))
done = getattr(store, method)
setattr(store, method, lambda *given: (done(*given), os._exit(9)))
files = Files(connect(url), store)
asyncio.run(files.delete(file_id, actor="ann") if file_id else files.keep(NewFile("a", "evals"), b"new", key_id="k"))
"""


async def killed_after(files: Files, tmp_path: Path, method: str, file_id: str = "") -> None:
    """A process of its own deletes that file, or keeps one, and is killed once the store has done that."""
    url = files._engine.url.render_as_string(hide_password=False)
    command = (sys.executable, "-c", KILLED, url, str(tmp_path / "artifacts"), method, file_id)
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, told = await process.communicate()
    assert process.returncode == 9, told.decode()


async def test_a_process_killed_in_a_deletion_shows_no_file_without_content(files: Files, tmp_path: Path) -> None:
    """The file is gone, as its content is, and the same can be sent again."""
    file = await files.keep(NEW, ROWS, key_id="k")
    await killed_after(files, tmp_path, "remove", file.id)
    await assert_gone(files, file)
    assert artifacts(files, tmp_path) == []
    again = await files.keep(NEW, ROWS, key_id="k")
    await files.sweep()
    assert files.content(again).read_bytes() == ROWS


async def test_a_process_killed_in_an_upload_leaves_no_content_for_ever(files: Files, tmp_path: Path) -> None:
    """Nobody sees such a file; what it left goes once nothing can be on its way any more."""
    await killed_after(files, tmp_path, "put_files")
    assert await files.listed(limit=9) == []
    (digest,) = artifacts(files, tmp_path)
    await files.sweep()
    assert artifacts(files, tmp_path) == [digest]
    await set_columns(files, created_at=datetime.now(UTC) - SENT_WITHIN - HOUR)
    await files.sweep()
    assert artifacts(files, tmp_path) == []


async def test_content_that_came_too_late_is_no_file(files: Files, tmp_path: Path) -> None:
    """Its row was cleared away meanwhile; nothing of it stays."""
    put, url = files.store.put_files, files._engine.url.render_as_string(hide_password=False)

    def late(content: Any) -> Any:
        found = put(content)
        asyncio.run(end_all(url))
        return found

    with pytest.MonkeyPatch.context() as slow:
        slow.setattr(files.store, "put_files", late)
        with pytest.raises(StoreFailure):
            await files.keep(NEW, ROWS, key_id="k")
    assert await files.listed(limit=9) == []
    assert artifacts(files, tmp_path) == []


async def end_all(url: str) -> None:
    """Mark every file as deleted, through a connection of its own."""
    engine = connect(url)
    async with writing(engine) as connection:
        await connection.execute(update(_TABLE).values(deleted_at=datetime.now(UTC)))
    await engine.dispose()


async def test_files_that_jobs_need_hold_up_no_others(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of them are over; nor do those that were just deleted."""
    monkeypatch.setattr("registry.tuning.files._AT_ONCE", 2)
    kept = [await files.keep(NEW, b"%d" % number, key_id="k") for number in range(15)]
    for number, file in enumerate(kept):
        if number % 3 == 0:
            await needed(files, file)
        if number % 3 == 1:
            await files.delete(file.id, actor="ann")
        else:
            await expire(files, file)
    await files.sweep()
    there = [number for number, file in enumerate(kept) if await is_found(files, file)]
    assert there == [0, 3, 6, 9, 12]
    assert all(files.content(kept[number]) for number in there)


async def is_found(files: Files, file: FileRow) -> bool:
    """Whether a job finds it."""
    with contextlib.suppress(NotFound):
        return bool(await files.find(file.id, also_expired=True))
    return False


async def test_a_file_is_deleted_or_needed(files: Files, database_url: str) -> None:
    """Of a job that begins with it and somebody who deletes it at once, or a sweep, one comes too late."""
    others = [Files(connect(database_url), files.store) for _ in range(2)]
    for number in range(12):
        file = await files.keep(NEW, b"%d" % number, key_id="k")
        ends = others[0].delete(file.id, actor="ann") if number % 2 else ended_by_sweep(others[0], file)
        job, end = await asyncio.gather(needed(others[1], file), ends, return_exceptions=True)
        if isinstance(job, NotFound):
            assert (end, job.param) == (None, "training_file")
            await assert_gone(files, file)
        else:
            assert isinstance(job, TuningJobRow), job
            assert isinstance(end, Conflict if number % 2 else None.__class__), end
            assert files.content(await files.find(file.id, also_expired=True)).read_bytes() == b"%d" % number
    for other in others:
        await other._engine.dispose()


async def test_a_sweep_waits_for_a_job_that_is_being_made(
    files: Files, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose time is over, and that such a job has just taken, stays for it."""
    file = await files.keep(NEW, ROWS, key_id="k")
    others = Files(connect(database_url), files.store)
    taken, goes_on = asyncio.Event(), asyncio.Event()

    async def slowly(*_: Any) -> None:
        taken.set()
        await goes_on.wait()

    await expire(files, file)
    monkeypatch.setattr("registry.tuning.jobs.add_event", slowly)
    making = asyncio.create_task(needed(files, file))
    await taken.wait()
    locking = asyncio.Event()

    @event.listens_for(others._engine.sync_engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "BEGIN IMMEDIATE" in statement or "FOR UPDATE" in statement:
            locking.set()

    sweeping = asyncio.create_task(others.sweep())
    await asyncio.wait_for(locking.wait(), 10)
    if files._engine.dialect.name == "postgresql":
        await until(lambda: waits_for_a_lock(files._engine))
    goes_on.set()
    await asyncio.gather(making, sweeping)
    assert await is_found(files, file)
    assert files.content(file).read_bytes() == ROWS
    await others._engine.dispose()


async def ended_by_sweep(files: Files, file: FileRow) -> None:
    """Its time is over, and it is swept."""
    await expire(files, file)
    await files.sweep()


async def test_what_clients_do_with_files_is_audited(files: Files, registry: Registry) -> None:
    """Who sent and who deleted what; a deletion that is refused is none, and jobs' own files are not audited."""
    file = await files.keep(NEW, ROWS, key_id="k", actor="ann")
    await files.keep(NEW, ROWS, key_id="k")
    job = await needed(files, file)
    with pytest.raises(Conflict):
        await files.delete(file.id, actor="bob")
    await Jobs(files._engine).wish(job.id, "cancel", actor="ann")
    await files.delete(file.id, actor="bob")
    told = [(entry.action, entry.actor, entry.subject) for entry in await registry.audit() if "file" in entry.action]
    assert told == [("delete_file", "bob", f"file:{file.id}"), ("create_file", "ann", f"file:{file.id}")]
    newest = (await registry.audit(limit=1))[0]
    assert newest.before == {"filename": "rows.jsonl", "purpose": "fine-tune", "bytes": len(ROWS)}


async def test_content_whose_file_cannot_be_kept_is_removed(files: Files, tmp_path: Path) -> None:
    """No row, no content; but content that another file has stays."""
    nameless = NewFile(None, "evals")  # type: ignore[arg-type]  # what the database refuses
    with pytest.raises(IntegrityError):
        await files.keep(nameless, ROWS, key_id="k")
    assert artifacts(files, tmp_path) == []
    file = await files.keep(NEW, ROWS, key_id="k")
    with pytest.raises(IntegrityError):
        await files.keep(nameless, ROWS, key_id="k")
    assert files.content(file).read_bytes() == ROWS


async def test_content_that_goes_while_it_is_sent_again_is_there_again(
    database: AsyncEngine, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last file of a content is deleted after the same content was found in the store, before its row is added."""
    files, others = (
        Files(database, store),
        Files(connect(str(database.url.render_as_string(hide_password=False))), store),
    )
    old = await files.keep(NEW, ROWS, key_id="k")
    removing, goes_on = threading.Event(), threading.Event()
    remove = store.remove

    def slowly(digest: str) -> None:
        removing.set()
        assert goes_on.wait(10)
        remove(digest)

    monkeypatch.setattr(store, "remove", slowly)
    deletion = asyncio.create_task(files.delete(old.id, actor="ann"))
    await asyncio.to_thread(removing.wait, 10)
    locking = asyncio.Event()

    @event.listens_for(others._engine.sync_engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "BEGIN IMMEDIATE" in statement or "advisory" in statement:
            locking.set()

    sent_again = asyncio.create_task(others.keep(NEW, ROWS, key_id="k"))
    await asyncio.wait_for(locking.wait(), 10)
    if database.dialect.name == "postgresql":
        await until(lambda: waits_for_a_lock(database))
    assert not sent_again.done(), "it was kept without waiting for the deletion"
    goes_on.set()
    await deletion
    new = await sent_again
    assert files.content(new).read_bytes() == ROWS
    await others._engine.dispose()


async def waits_for_a_lock(database: AsyncEngine) -> bool:
    """Whether somebody waits for a lock of PostgreSQL."""
    async with database.connect() as connection:
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool((await connection.execute(waiting)).scalar_one())


async def test_whatever_is_sent_and_deleted_at_once_has_its_content(
    database: AsyncEngine, store: ArtifactStore
) -> None:
    """Several senders of the same few contents, who delete them at once: no file that is there lacks its content."""
    engines = [connect(database.url.render_as_string(hide_password=False)) for _ in range(4)]

    async def work(files: Files, key_id: str) -> None:
        for number in range(6):
            file = await files.keep(NEW, b"%d" % (number % 2), key_id=key_id)
            assert files.content(file).read_bytes() == b"%d" % (number % 2)
            await files.delete(file.id, actor="ann")

    await asyncio.gather(*(work(Files(engine, store), f"key_{n}") for n, engine in enumerate(engines * 2)))
    for engine in engines:
        await engine.dispose()
    with contextlib.suppress(FileNotFoundError):
        assert list((Path(store._root) / "sha256").iterdir()) == []
