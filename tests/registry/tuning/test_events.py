"""What a job says of itself, and the checkpoints that training can go on from."""

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.errors import NotFound
from registry.tuning.datasets import Datasets
from registry.tuning.events import Events, event_id, event_number
from registry.tuning.jobs import Asker, Jobs
from registry.tuning.orders import TuningOrder
from registry.tuning.tables import DatasetRow
from tests.registry.tuning.checkpoints import add_checkpoint
from tests.registry.tuning.telling import tell


@pytest.fixture
def events(database: AsyncEngine) -> Events:
    """In a database of each kind."""
    return Events(database)


@pytest.fixture
async def job(database: AsyncEngine) -> str:
    """A job's id; it has said one thing."""
    return await asked(database)


async def asked(database: AsyncEngine) -> str:
    """A new job's id."""
    made, _ = await Jobs(database).create(TuningOrder("support", "tiny", "file-1"), "tiny", Asker("key_1", "ann"))
    return made.id


def digest(letter: str) -> str:
    """A digest like any other."""
    return letter * 64


async def test_events_are_listed_newest_first(events: Events, job: str, database: AsyncEngine) -> None:
    """Page after page, each once, and never those of another job."""
    other = await asked(database)
    for number in range(4):
        await tell(events, job, f"told {number}", level="warn" if number else "info")
        await tell(events, other, "elsewhere")
    found = await events.listed(job, limit=4)
    assert [event.message for event in found] == ["told 3", "told 2", "told 1", "told 0"]
    assert [event.level for event in found] == ["warn", "warn", "warn", "info"]
    rest = await events.listed(job, after=found[-1].id, limit=4)
    assert [event.message for event in rest] == [f"Created fine-tuning job: {job}"]
    assert len(await events.listed(other, limit=10)) == 5


async def test_tokens_are_known_up_to_a_step(events: Events, job: str, database: AsyncEngine) -> None:
    """Of this job alone; steps after a checkpoint are done again and do not count yet."""
    other = await asked(database)
    assert await events.tokens_at(job, 9) == 0
    for step, tokens in ((1, 5), (2, 2**40), (2, None), (3, 2**41)):
        data = {"step": step, "full_valid_loss": 1.5} if tokens is None else {"step": step, "tokens": tokens}
        await tell(events, job, "step", data=data)
        await tell(events, other, "step", data={"step": 1, "tokens": 2**42})
    assert [await events.tokens_at(job, step) for step in (0, 1, 2, 3)] == [0, 5, 2**40, 2**41]


async def test_an_event_with_data_is_one_of_metrics(events: Events, job: str) -> None:
    """Those of steps come back as they were, oldest first."""
    data: list[dict[str, Any]] = [
        {"step": 1, "train_loss": 2.5},
        {"step": 2, "train_loss": None, "extra": {"margin": 0.1}},
    ]
    for each in data:
        await tell(events, job, "a step", data=each)
    await tell(events, job, "5 of 9 answers", data={"answers": 5, "total_answers": 9})
    await tell(events, job, "a word")
    assert await events.metrics(job) == data
    newest, count, metrics = await events.listed(job, limit=3)
    assert (newest.type, newest.data) == ("message", None)
    assert (count.type, count.data) == ("metrics", {"answers": 5, "total_answers": 9})
    assert (metrics.type, metrics.data) == ("metrics", data[1])


async def test_an_events_id_leads_back_to_it(events: Events, job: str) -> None:
    """And ids sort as events came."""
    await tell(events, job, "more")
    found = await events.listed(job, limit=10)
    ids = [event_id(event) for event in found]
    assert ids == sorted(ids, reverse=True)
    assert [event_number(each) for each in ids] == [event.id for event in found]


@pytest.mark.parametrize(
    "id", ["", "ftevent-", "7", "ftevent-x", "ftevent-\u0661", "ftevent--1", "ftevent-" + "9" * 19]
)
def test_other_words_are_no_events_id(id: str) -> None:
    """Nothing that a database could choke on."""
    assert event_number(id) is None


async def test_the_newest_and_the_best_checkpoint_are_kept(events: Events, job: str) -> None:
    """Each new one says whose content nothing goes on from any more."""

    async def add(step: int, letter: str, *, is_best: bool) -> list[str]:
        return await add_checkpoint(events, job, step, digest(letter), {"step": float(step)}, is_best=is_best)

    async def kept() -> list[tuple[int, str | None, bool]]:
        return [(each.step, each.digest, each.is_best) for each in await events.kept_checkpoints(job)]

    assert await add(10, "a", is_best=True) == []
    assert await add(20, "b", is_best=False) == []
    assert await kept() == [(10, digest("a"), True), (20, digest("b"), False)]
    assert await add(30, "c", is_best=False) == [digest("b")]
    assert sorted(await add(40, "d", is_best=True)) == [digest("a"), digest("c")]
    assert await kept() == [(40, digest("d"), True)]
    assert [(each.step, each.digest is None) for each in await events.checkpoints(job, limit=10)] == [
        (40, False),
        (30, True),
        (20, True),
        (10, True),
    ]


async def test_a_step_that_is_reached_again_is_replaced(events: Events, job: str) -> None:
    """Its id stays, its content is the new one, and the old one is not needed, unless it is the same."""
    await add_checkpoint(events, job, 10, digest("a"), {"step": 10.0, "valid_loss": 2.0}, is_best=True)
    (before,) = await events.checkpoints(job, limit=10)
    unneeded = await add_checkpoint(events, job, 10, digest("b"), {"step": 10.0, "valid_loss": 1.0}, is_best=True)
    assert unneeded == [digest("a")]
    assert await add_checkpoint(events, job, 10, digest("b"), {"step": 10.0}, is_best=True) == []
    (after,) = await events.checkpoints(job, limit=10)
    assert (after.id, after.digest, after.metrics) == (before.id, digest("b"), {"step": 10.0})


async def test_checkpoints_are_listed_page_after_page(events: Events, job: str, database: AsyncEngine) -> None:
    """Newest first; what is no checkpoint of this job is nothing to go on from."""
    other = await asked(database)
    await add_checkpoint(events, other, 1, digest("0"), {}, is_best=True)
    for step in (1, 2, 3):
        await add_checkpoint(events, job, step, digest(str(step)), {}, is_best=False)
    first = await events.checkpoints(job, limit=2)
    assert [each.step for each in first] == [3, 2]
    assert [each.step for each in await events.checkpoints(job, after=first[-1].id, limit=2)] == [1]
    (elsewhere,) = await events.checkpoints(other, limit=2)
    for after in (elsewhere.id, "ftckpt-0", "", "a\0b"):
        with pytest.raises(NotFound):
            await events.checkpoints(job, after=after, limit=2)


async def test_a_job_that_has_ended_needs_none(events: Events, job: str, database: AsyncEngine) -> None:
    """Its checkpoints stay listed without their content; another job's are not touched."""
    other = await asked(database)
    await add_checkpoint(events, other, 1, digest("0"), {}, is_best=True)
    await add_checkpoint(events, job, 1, digest("a"), {}, is_best=True)
    await add_checkpoint(events, job, 2, digest("b"), {}, is_best=False)
    assert sorted(await events.drop_checkpoints(job)) == [digest("a"), digest("b")]
    assert await events.drop_checkpoints(job) == []
    assert await events.kept_checkpoints(job) == []
    assert [each.step for each in await events.checkpoints(job, limit=10)] == [2, 1]
    assert len(await events.kept_checkpoints(other)) == 1


def dataset_row(letter: str, **fields: Any) -> DatasetRow:
    """A dataset like any other."""
    usual: dict[str, Any] = {
        "adapter": "support",
        "digest": digest(letter),
        "method": "supervised",
        "size_bytes": 2**40,
        "counts": {"train": 8, "validation": 1, "holdout": 1},
        "sources": {"uploaded": 10},
        "parents": [],
        "report": {"bad_rows": 0},
        "job": "ftjob-1",
    }
    return DatasetRow(**usual | fields)


async def test_a_dataset_is_registered_once(database: AsyncEngine) -> None:
    """The same content of the same adapter stays as it was first; another adapter may have it, too."""
    datasets = Datasets(database)
    await datasets.register(dataset_row("a"))
    await datasets.register(dataset_row("a", job="ftjob-2"))
    await datasets.register(dataset_row("a", adapter="billing", job="ftjob-3"))
    found = await datasets.find("support", digest("a"))
    assert found is not None
    assert (found.job, found.size_bytes, found.counts["train"]) == ("ftjob-1", 2**40, 8)
    assert await datasets.find("support", digest("b")) is None
    assert await datasets.find("unknown", digest("a")) is None


async def test_datasets_are_listed_newest_first(database: AsyncEngine) -> None:
    """Page after page, of one adapter."""
    datasets = Datasets(database)
    for letter in "abc":
        await datasets.register(dataset_row(letter))
    await datasets.register(dataset_row("d", adapter="billing"))
    page = await datasets.listed("support", limit=2)
    assert [row.digest for row in page] == [digest("c"), digest("b")]
    rest = await datasets.listed("support", before=page[-1].id, limit=2)
    assert [row.digest for row in rest] == [digest("a")]
