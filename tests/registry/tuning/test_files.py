"""Files: what is kept, who sees it, and that content is there exactly as long as a file refers to it."""

import asyncio
import contextlib
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.artifacts import ArtifactStore
from registry.database import connect, writing
from registry.errors import NotFound, StoreFailure
from registry.tuning.files import Files, NewFile
from registry.tuning.tables import FileRow

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


async def nobody_needs(_file_id: str) -> bool:
    """No job needs any file."""
    return False


async def expire(files: Files, file: FileRow) -> None:
    """Let a file's time be over."""
    over = update(_TABLE).where(_TABLE.c.id == file.id).values(expires_at=datetime.now(UTC) - HOUR)
    async with writing(files._engine) as connection:
        await connection.execute(over)


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
            files.delete(unseen, key_id="key_1"),
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
    await files.delete(ids[3])
    assert [file.id for file in await files.listed(after=ids[3], limit=9)] == ids[2::-1]
    assert [file.id for file in await files.listed(purpose="evals", newest_first=False, limit=9)] == [ids[0], ids[6]]


async def test_content_goes_with_the_last_file_that_has_it(files: Files, tmp_path: Path) -> None:
    """Two files of the same content share it; one of them is not enough to drop it."""
    first, second = [await files.keep(NEW, ROWS, key_id=key) for key in ("key_1", "key_2")]
    assert first.digest == second.digest
    await files.delete(first.id)
    await assert_gone(files, first)
    assert files.content(second).read_bytes() == ROWS
    await files.delete(second.id)
    assert artifacts(files, tmp_path) == []
    with pytest.raises(NotFound):
        await files.delete(second.id)


async def test_a_file_whose_time_is_over_is_gone_and_swept(files: Files, tmp_path: Path) -> None:
    """Nobody sees it any more; its content stays while a job needs it, which finds it still, and goes then."""
    file = await files.keep(NEW, ROWS, key_id="k")
    stays = await files.keep(NewFile("b", "evals", datetime.now(UTC) + HOUR), b"other", key_id="k")
    await expire(files, file)
    await assert_gone(files, file)
    asked: list[str] = []

    async def needs(file_id: str) -> list[str]:
        asked.append(file_id)
        return ["ftjob-1"]

    await files.sweep(needs)
    assert asked == [file.id]
    assert files.content(await files.find(file.id, also_expired=True)).read_bytes() == ROWS
    await files.sweep(nobody_needs)
    with pytest.raises(NotFound):
        await files.find(file.id, also_expired=True)
    assert artifacts(files, tmp_path) == [stays.digest]


async def test_content_that_an_expired_file_still_has_is_not_dropped(files: Files) -> None:
    """When the other file of the same content is deleted while a job needs the expired one."""
    over, other = [await files.keep(NEW, ROWS, key_id="k") for _ in range(2)]
    await expire(files, over)
    await files.delete(other.id)
    assert files.content(over).read_bytes() == ROWS


async def test_a_sweep_removes_what_a_deletion_left(files: Files, tmp_path: Path) -> None:
    """Such as this machine's copy of content that another gateway removed; never what a file has again."""
    file = await files.keep(NEW, ROWS, key_id="k")
    await files.delete(file.id)
    files.store.put_files({"content": ROWS})
    await files.sweep(nobody_needs)
    assert artifacts(files, tmp_path) == []
    again = await files.keep(NEW, ROWS, key_id="k")
    await files.sweep(nobody_needs)
    assert files.content(again).read_bytes() == ROWS


async def test_a_sweep_drops_this_machines_copy(database: AsyncEngine, tmp_path: Path) -> None:
    """Of what another machine deleted from an object store."""
    here, there = [
        Files(database, ArtifactStore(f"memory://{tmp_path.name}", tmp_path / machine)) for machine in ("here", "there")
    ]
    file, stays = [await here.keep(NEW, content, key_id="k") for content in (ROWS, b"stays")]
    assert there.content(file).read_bytes() == ROWS
    assert there.content(stays).read_bytes() == b"stays"
    await here.delete(file.id)
    assert (tmp_path / "there/sha256" / file.digest).exists()
    await there.sweep(nobody_needs)
    assert [copy.name for copy in (tmp_path / "there/sha256").iterdir()] == [stays.digest]
    with pytest.raises(StoreFailure):
        there.content(file)


async def test_a_file_whose_content_cannot_be_removed_stays(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deletion fails, and can be done again."""
    file = await files.keep(NEW, ROWS, key_id="k")

    def fails(_digest: str) -> None:
        raise StoreFailure("the artifact store could not be written: Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(files.store, "remove", fails)
        with pytest.raises(StoreFailure):
            await files.delete(file.id)
    assert (await files.find(file.id)).id == file.id
    await files.delete(file.id)
    await assert_gone(files, file)


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
    deletion = asyncio.create_task(files.delete(old.id))
    await asyncio.to_thread(removing.wait, 10)
    sent_again = asyncio.create_task(others.keep(NEW, ROWS, key_id="k"))
    done, _ = await asyncio.wait([sent_again], timeout=0.3)
    assert not done, "it was kept without waiting for the deletion"
    goes_on.set()
    await deletion
    new = await sent_again
    assert files.content(new).read_bytes() == ROWS
    await others._engine.dispose()


async def test_whatever_is_sent_and_deleted_at_once_has_its_content(
    database: AsyncEngine, store: ArtifactStore
) -> None:
    """Several senders of the same few contents, who delete them at once: no file that is there lacks its content."""
    engines = [connect(database.url.render_as_string(hide_password=False)) for _ in range(4)]

    async def work(files: Files, key_id: str) -> None:
        for number in range(6):
            file = await files.keep(NEW, b"%d" % (number % 2), key_id=key_id)
            assert files.content(file).read_bytes() == b"%d" % (number % 2)
            await files.delete(file.id)

    await asyncio.gather(*(work(Files(engine, store), f"key_{n}") for n, engine in enumerate(engines * 2)))
    for engine in engines:
        await engine.dispose()
    with contextlib.suppress(FileNotFoundError):
        assert list((Path(store._root) / "sha256").iterdir()) == []
