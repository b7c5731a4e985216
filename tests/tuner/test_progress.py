"""What training tells is kept, and what nobody goes on from is let go, whatever happens while it is stored."""

import asyncio
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from registry.artifacts import Artifact, ArtifactStore
from registry.database import connect
from registry.tuning.jobs import JobLost
from tests.conftest import until
from tests.tuner.shops import end_lease, shop_of, tuner_settings
from tests.tuner.test_stages import held
from tuner.errors import Interrupted
from tuner.messages import Saved
from tuner.progress import Progress
from tuner.shop import AtWork, Shop
from tuner.sweeping import sweep


class SlowStore(ArtifactStore):
    """Stores nothing before it is let go on.

    Attributes:
        stored: the digests of what it has stored.
    """

    def __init__(self, url: str, cache: Path) -> None:
        super().__init__(url, cache)
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.stored: list[str] = []

    def put_files(self, files: Mapping[str, bytes | Path]) -> Artifact:
        """Store them, a while later."""
        if "state.json" not in files:
            return super().put_files(files)
        self.begun.set()
        assert self.go_on.wait(30)
        artifact = super().put_files(files)
        self.stored.append(artifact.digest)
        return artifact


@pytest.fixture
def store(tmp_path: Path) -> SlowStore:
    """The store."""
    return SlowStore(str(tmp_path / "artifacts"), tmp_path / "cache")


@pytest.fixture
def shop(tmp_path: Path, sqlite_template: Path, store: SlowStore) -> Shop:
    """What a job works with."""
    file = shutil.copyfile(sqlite_template, tmp_path / "ostler.db")
    return shop_of(tuner_settings(tmp_path, f"sqlite:///{file}"), connect(f"sqlite:///{file}"), store=store)


def saved(work: AtWork, step: int, *, is_best: bool = False) -> Saved:
    """A checkpoint on the disk, as training tells of it."""
    folder = work.workspace.checkpoint(step)
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(str(step))
    return Saved(step, str(folder), is_best=is_best, metrics={"valid_loss": 1.0})


async def test_a_checkpoint_that_is_stored_while_its_job_is_cancelled_is_swept(shop: Shop, store: SlowStore) -> None:
    """The thread cannot be broken off, so it is waited for, and what it stored has a row by which it is found."""
    work = await held(shop)

    async def train() -> None:
        async with Progress(work) as progress:
            await progress.take(saved(work, 2))
            await until(store.begun.is_set, 30)
            raise Interrupted("cancel")

    training = asyncio.create_task(train())
    await until(store.begun.is_set, 30)
    store.go_on.set()
    with pytest.raises(Interrupted):
        await training
    await shop.jobs.end(work.job.id, "worker", "cancelled", "The job was cancelled")
    (digest,) = store.stored
    assert store.holds(digest)
    await sweep(shop)
    assert not store.holds(digest)


async def test_a_tuner_that_lost_its_job_while_it_stored_leaves_the_holders_checkpoints(
    shop: Shop, store: SlowStore
) -> None:
    """What it has stored itself is gone, though the holder has made the same step since."""
    work = await held(shop)
    store.go_on.set()
    async with Progress(work) as progress:
        await progress.take(saved(work, 2))
    store.go_on.clear()
    store.begun.clear()
    await end_lease(shop, work.job.id)

    async def train() -> None:
        async with Progress(work) as progress:
            await progress.take(saved(work, 4))

    training = asyncio.create_task(train())
    await until(store.begun.is_set, 30)
    job = await shop.jobs.claim("other", bases=["tiny"], lease_s=60)
    assert job is not None
    other = AtWork(job, work.order, "other", work.workspace, work.control, shop_with(shop, store))
    async with Progress(other) as progress:
        (work.workspace.folder / "4").mkdir()
        (work.workspace.folder / "4" / "state.json").write_text("4")
        await progress.take(Saved(4, str(work.workspace.folder / "4"), is_best=False, metrics={}))
    store.go_on.set()
    with pytest.raises(JobLost):
        await training
    (newest,) = await shop.events.kept_checkpoints(job.id)
    assert newest.digest is not None
    assert newest.step == 4
    assert store.holds(newest.digest)
    assert [store.holds(digest) for digest in store.stored] == [False, False]
    assert (await shop.jobs.find(job.id)).checkpoint == newest.digest


def shop_with(shop: Shop, store: SlowStore) -> Shop:
    """The same before a store that is quick."""
    quick = ArtifactStore(shop.settings.artifacts, store._cache)
    return shop_of(shop.settings, shop.events._engine, store=quick)


async def test_of_checkpoints_that_wait_for_a_slow_store_the_newest_and_the_best_are_stored(
    shop: Shop, store: SlowStore
) -> None:
    """The others are listed without content, and leave the disk while the store is still at it."""
    work = await held(shop)
    async with Progress(work) as progress:
        await progress.take(saved(work, 1, is_best=True))
        await until(store.begun.is_set, 30)
        for step in range(2, 8):
            await progress.take(saved(work, step, is_best=step in (3, 5)))
        store.go_on.set()
    listed = await shop.events.checkpoints(work.job.id, limit=10)
    assert [(each.step, each.digest is not None, each.is_best) for each in reversed(listed)] == [
        (1, False, False),
        (2, False, False),
        (3, False, False),
        (4, False, False),
        (5, True, True),
        (6, False, False),
        (7, True, False),
    ]
    assert len(store.stored) == 3
    assert sorted(folder.name for folder in work.workspace.checkpoints.iterdir()) == ["checkpoint-5", "checkpoint-7"]
    assert [store.holds(digest) for digest in store.stored] == [False, True, True]
