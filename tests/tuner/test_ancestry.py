"""What a job's dataset comes after: the datasets of versions before, as far as they are known."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from registry.database import connect
from registry.tuning.jobs import order_of
from registry.tuning.orders import DataOrder
from registry.tuning.tables import DatasetRow
from tests.conftest import AdapterMaker
from tests.tuner.fake_child import dataset_files
from tests.tuner.shops import ask, shop_of, tuner_settings
from tuner.ancestry import Ancestry, ancestry_of
from tuner.control import Control
from tuner.errors import JobFailed
from tuner.shop import AtWork, Shop
from tuner.stages import make_data
from tuner.workspace import PrepareTask, Workspace


@pytest.fixture
def shop(tmp_path: Path, sqlite_template: Path) -> Shop:
    """What the worker works with; the kind of database has no part in it."""
    file = shutil.copyfile(sqlite_template, tmp_path / "ostler.db")
    return shop_of(tuner_settings(tmp_path, f"sqlite:///{file}"), connect(f"sqlite:///{file}"))


async def version(shop: Shop, folder: Path, dataset: str | None, *parents: str, stable: bool = False) -> int:
    """A version of support that was made of a dataset, which comes after others; None is one pushed by hand."""
    lineage = None if dataset is None else {"dataset": dataset}
    pushed = await shop.registry.push("support", folder, actor="ann", lineage=lineage)
    number = pushed.version.number
    if dataset is not None:
        about: dict[str, Any] = {"method": "supervised", "size_bytes": 1, "counts": {}, "sources": {}, "report": {}}
        row = DatasetRow(adapter="support", digest=dataset, parents=list(parents), job="ftjob-0", **about)
        await shop.datasets.register(row)
        await shop.registry.judge("support", number, passed=True, report={"passed": True}, actor="ann")
    if stable:
        await shop.registry.promote("support", number, actor="ann")
    return number


async def held(shop: Shop, **order: Any) -> AtWork:
    """A job that is held."""
    await ask(shop, **order)
    job = await shop.jobs.claim("worker", bases=["tiny"], lease_s=60)
    assert job is not None
    workspace = Workspace(shop.settings.work / job.id)
    return AtWork(job, order_of(job), "worker", workspace, Control(), shop)


async def found(shop: Shop, **order: Any) -> Ancestry:
    """The ancestry of a job."""
    return await ancestry_of(await held(shop, **order))


async def test_the_first_version_comes_after_nothing(shop: Shop) -> None:
    """There is no adapter yet."""
    assert await found(shop) == Ancestry(None, (), ())


async def test_all_datasets_before_are_found(shop: Shop, adapter_folder: AdapterMaker) -> None:
    """Parents of parents, each once, also those of what serves while the job goes on from another version."""
    await version(shop, adapter_folder(1.0), "first")
    await version(shop, adapter_folder(2.0), "second", "first")
    base = await version(shop, adapter_folder(3.0), "third", "second", "unknown")
    await version(shop, adapter_folder(4.0), "live", "first", stable=True)
    assert await found(shop, start_from=base) == Ancestry(
        "third", ("third", "live"), ("third", "live", "second", "unknown", "first")
    )


async def test_whoever_makes_the_dataset_is_given_them_all(shop: Shop, adapter_folder: AdapterMaker) -> None:
    """As folders on this machine, with what is replayed among them."""
    first, second = (shop.store.put_files(dataset_files(name)).digest for name in (b"first", b"second"))
    await version(shop, adapter_folder(1.0), first)
    await version(shop, adapter_folder(2.0), second, first, stable=True)
    work = await held(shop)
    await make_data(work)
    task = work.workspace.read_task()
    assert isinstance(task, PrepareTask)
    assert (task.replayed, task.parents) == (second, (second,))
    files = {digest: (Path(folder) / "train.jsonl").read_bytes() for digest, folder in task.ancestors.items()}
    assert files == {second: dataset_files(b"second")["train.jsonl"], first: dataset_files(b"first")["train.jsonl"]}


async def test_what_is_replayed_can_be_another_version(shop: Shop, adapter_folder: AdapterMaker) -> None:
    """Than the one whose weights are gone on from; the order's word counts."""
    first = await version(shop, adapter_folder(1.0), "first")
    second = await version(shop, adapter_folder(2.0), "second")
    ancestry = await found(shop, start_from=second, data=DataOrder(replay_from=first))
    assert (ancestry.replayed, ancestry.parents) == ("first", ("first", "second"))


async def test_nobody_knows_what_a_version_pushed_by_hand_was_trained_on(
    shop: Shop, adapter_folder: AdapterMaker
) -> None:
    """Going on from it replays nothing; what serves is known still. To replay it is refused."""
    await version(shop, adapter_folder(1.0), "live", stable=True)
    by_hand = await version(shop, adapter_folder(2.0), None)
    assert await found(shop, start_from=by_hand) == Ancestry(None, ("live",), ("live",))


async def test_a_version_pushed_by_hand_cannot_be_replayed(shop: Shop, adapter_folder: AdapterMaker) -> None:
    """The client is told which one."""
    by_hand = await version(shop, adapter_folder(1.0), None)
    with pytest.raises(JobFailed, match="support@1 was pushed by hand") as failed:
        await found(shop, data=DataOrder(replay_from=by_hand))
    assert failed.value.param == "replay_from"
