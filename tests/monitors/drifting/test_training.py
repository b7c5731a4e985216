"""The prompts that a version was trained on: found by its lineage, and none where they are of no use."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.drifting import runs, training
from monitors.drifting.child import Judged
from monitors.drifting.job import DriftJob
from monitors.drifting.task import Result, Task
from monitors.drifting.training import TrainingPrompts
from monitors.drifting.windows import LEAST_REFERENCE
from monitors.settings import MonitorSettings
from monitors.watch.client import GatewayClient
from monitors.watch.jobs import all_jobs
from monitors.watch.metrics import MonitorMetrics
from monitors.watch.work import Workshop
from registry.artifacts import ArtifactStore
from registry.errors import StoreFailure
from registry.registry import Registry
from tests.conftest import AdapterMaker
from tests.monitors.drifting.traffic import NOW, WORDS, catalog, sentence, serve


def conversation(text: str) -> dict[str, Any]:
    """A row of supervised training."""
    turns = (("system", "Be short."), ("user", "Hello"), ("assistant", "Yes?"), ("user", text), ("assistant", "ok"))
    return {"messages": [{"role": role, "content": words} for role, words in turns]}


def preference(text: str) -> dict[str, Any]:
    """A row of dpo."""
    answers = {name: [{"role": "assistant", "content": name}] for name in ("preferred_output", "non_preferred_output")}
    return {"input": {"messages": [{"role": "user", "content": text}]}, **answers}


@pytest.fixture
def trained(registry: Registry, store: ArtifactStore, adapter_folder: AdapterMaker) -> Any:
    """Registers version 1 of `support`, trained on these rows."""

    async def make(rows: Sequence[dict[str, Any]]) -> TrainingPrompts:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        dataset = store.put_files({"train.jsonl": lines.encode(), "about.json": b"{}"})
        await registry.push("support", adapter_folder(1.0), actor="test", lineage={"dataset": dataset.digest})
        return TrainingPrompts(registry, store)

    return make


@pytest.mark.parametrize("row", [conversation, preference])
async def test_what_the_user_asked_last_is_the_prompt(trained: Any, row: Any) -> None:
    """Of each row, in the dataset's order; an empty one says nothing."""
    texts = [f"question {number}" for number in range(LEAST_REFERENCE)]
    prompts = await trained([row(" "), *map(row, texts)])
    assert list(await prompts("support", 1)) == texts


async def test_a_large_dataset_gives_its_first_prompts(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its order is drawn by hash, so they are a fair sample; the rest of the file is not read."""
    monkeypatch.setattr(training, "MOST_PROMPTS", 60)
    rows: list[Any] = [conversation(str(number)) for number in range(60)]
    prompts = await trained([*rows, "no row"])
    assert list(await prompts("support", 1)) == [str(number) for number in range(60)]


async def test_too_few_are_none(trained: Any) -> None:
    """Then the version's first requests are the reference, which are more."""
    prompts = await trained([conversation(str(number)) for number in range(LEAST_REFERENCE - 1)])
    assert await prompts("support", 1) == ()


async def test_where_nobody_knows_there_are_none(
    registry: Registry, store: ArtifactStore, adapter_folder: AdapterMaker
) -> None:
    """A version that was pushed by hand, one that is not there, and one whose dataset is gone."""
    await registry.push("support", adapter_folder(1.0), actor="test")
    await registry.push("support", adapter_folder(2.0), actor="test", lineage={"dataset": "0" * 64})
    await registry.push("support", adapter_folder(3.0), actor="test", lineage={"base": "tiny"})
    prompts = TrainingPrompts(registry, store)
    for version in (1, 2, 3, 4):
        assert await prompts("support", version) == ()


async def test_the_monitors_job_uses_them(
    database: AsyncEngine, store: ArtifactStore, tmp_path: Path, registry: Registry, adapter_folder: AdapterMaker
) -> None:
    """A look at a version that the tuner made holds its prompts against those of its dataset."""
    rows = "".join(json.dumps(conversation(f"question {number}")) + "\n" for number in range(70))
    dataset = store.put_files({"train.jsonl": rows.encode()})
    await registry.push("support", adapter_folder(1.0), actor="test")
    await registry.push("support", adapter_folder(2.0), actor="test", lineage={"dataset": dataset.digest})
    nobody = GatewayClient("http://nobody", "", concurrency=1)
    shop = Workshop(database, store, nobody, None, MonitorMetrics(), MonitorSettings(home=tmp_path), tmp_path)
    (job,) = (each for each in all_jobs(shop) if isinstance(each, DriftJob))
    tasks: list[Task] = []

    async def judge(task: Task) -> Judged:
        tasks.append(task)
        return Judged(Result([], {}), b"<html></html>")

    job._judge = judge
    await serve(database, 150)
    await job.run(catalog(), NOW)
    (prompts,) = (values for values in tasks[0].columns if values.name == "prompt")
    assert list(prompts.reference) == [f"question {number}" for number in range(70)]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_placeholders_of_the_tuner_and_of_the_gateway_are_no_drift(
    database: AsyncEngine, store: ArtifactStore, tmp_path: Path, trained: Any
) -> None:
    """A real look, with an address in three of ten prompts: each side writes something else in its place."""
    rng = random.Random(3)
    rows = [conversation(sentence(rng, (*WORDS * 2, "<EMAIL_ADDRESS>"))) for _ in range(600)]
    prompts = await trained(rows)
    await serve(database, 150, version=1, words=(*WORDS * 2, "[EMAIL]"))
    nobody = GatewayClient("http://nobody", "", concurrency=1)
    shop = Workshop(database, store, nobody, None, MonitorMetrics(), MonitorSettings(home=tmp_path), tmp_path)
    await DriftJob(shop, prompts).run(catalog(stable=1), NOW)
    async with database.connect() as connection:
        (run,) = await runs.list_runs(connection, "support")
    assert run.outcome == "no_drift"
    assert {each["name"]: each["reference_rows"] for each in run.columns}["prompt"] == 600


async def test_personal_data_that_was_trained_on_is_taken_out(trained: Any) -> None:
    """For the gateway takes it out of the traffic that is held against it."""
    prompts = await trained([conversation(f"I am jo{number}@example.com") for number in range(LEAST_REFERENCE)])
    assert list(await prompts("support", 1)) == ["I am [REDACTED]"] * LEAST_REFERENCE


async def test_a_dataset_is_read_once(trained: Any, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """For its digest is its content's, of which the store hashes all; but what could not be read is tried again."""
    fetched: list[str] = []
    fetch = store.fetch

    def counted(digest: str) -> Path:
        fetched.append(digest)
        if len(fetched) == 1:
            raise StoreFailure("the store is away")
        return fetch(digest)

    monkeypatch.setattr(store, "fetch", counted)
    prompts = await trained([conversation(str(number)) for number in range(LEAST_REFERENCE)])
    assert [len(await prompts("support", 1)) for _ in range(3)] == [0, LEAST_REFERENCE, LEAST_REFERENCE]
    assert len(fetched) == 2


async def test_no_more_is_remembered_than_fits(
    registry: Registry, store: ArtifactStore, adapter_folder: AdapterMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read first is read again; the newest stays."""
    monkeypatch.setattr(training, "MOST_REMEMBERED", 250)
    for number, text in enumerate(("ab", "cd", "ef"), 1):  # 100 characters each
        rows = "".join(json.dumps(conversation(text)) + "\n" for _ in range(LEAST_REFERENCE))
        dataset = store.put_files({"train.jsonl": rows.encode()})
        await registry.push("support", adapter_folder(float(number)), actor="test", lineage={"dataset": dataset.digest})
    prompts = TrainingPrompts(registry, store)
    for version in (1, 2, 3):
        assert len(await prompts("support", version)) == LEAST_REFERENCE
    monkeypatch.setattr(store, "fetch", lambda _digest: Path("nowhere"))
    assert [len(await prompts("support", version)) for version in (1, 2, 3)] == [0, LEAST_REFERENCE, LEAST_REFERENCE]
