"""The prompts that a version was trained on: found by its lineage, and none where they are of no use."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.drifting import training
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
from registry.registry import Registry
from tests.conftest import AdapterMaker
from tests.monitors.drifting.traffic import NOW, catalog, serve


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
