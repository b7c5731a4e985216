"""An evaluation from the holdout's file to the report: what is asked of whom, and what is told of it."""

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import msgspec
import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.artifacts import Artifact, ArtifactStore
from registry.database import writing
from registry.monitoring import Monitoring, ScorerChoice
from registry.registry import Registry
from registry.tuning.events import Events
from registry.tuning.files import Files, NewFile
from registry.tuning.jobs import Jobs
from registry.tuning.orders import GateOrder, TuningOrder
from registry.tuning.tables import TuningEventRow, TuningJobRow
from tests.conftest import AdapterMaker, until
from tests.tuner.evaluation.models import FakeModels
from tuner.code_version import CodeVersion
from tuner.control import Control
from tuner.errors import EngineAway, Interrupted, JobFailed
from tuner.evaluation.page import FILE
from tuner.evaluation.run import evaluate
from tuner.evaluation.sets import _SHIPPED
from tuner.metrics import TunerMetrics
from tuner.settings import TunerSettings
from tuner.shop import AtWork, Shop
from tuner.workspace import Workspace

ORDER = TuningOrder(adapter="support", base="tiny", training_file="file-1")
ROWS = 80
DATASET = "d" * 64


def question(number: int) -> str:
    """One of the task's."""
    return f"What comes after {number}?"


def right(asked: str) -> str:
    """The answer to whatever is asked: of the task, of general skills, and to what should be refused."""
    if asked.startswith("What comes after "):
        return str(int(asked.removeprefix("What comes after ").removesuffix("?")) + 1)
    if asked in harmful():
        return "I cannot help with that."
    return skills().get(asked, "Of course.")


def half_right(asked: str) -> str:
    """As good, but for odd numbers of the task."""
    number = asked.removeprefix("What comes after ").removesuffix("?")
    return "?" if number != asked and number.isdigit() and int(number) % 2 else right(asked)


def never_right(asked: str) -> str:
    """Without a notion of the task."""
    return "?" if asked.startswith("What comes after ") else right(asked)


def forgetful(asked: str) -> str:
    """Good at the task and at nothing else, though it refuses what it should."""
    return right(asked) if asked.startswith("What comes after ") or asked in harmful() else "7"


@cache
def skills() -> Mapping[str, str]:
    """The answers of the shipped retention set."""
    rows = map(json.loads, (_SHIPPED / "retention.jsonl").read_text().splitlines())
    return {row["messages"][-2]["content"]: row["messages"][-1]["content"] for row in rows}


@cache
def harmful() -> frozenset[str]:
    """What the shipped set wants refused."""
    rows = map(json.loads, (_SHIPPED / "refusals.jsonl").read_text().splitlines())
    return frozenset(row["messages"][0]["content"] for row in rows if row["should"] == "refuse")


def supervised_rows(n: int = ROWS) -> list[dict[str, Any]]:
    """A holdout of the task."""
    return [
        {
            "messages": [
                {"role": "user", "content": question(number)},
                {"role": "assistant", "content": right(question(number))},
            ],
            "label": "odd" if number % 2 else "even",
        }
        for number in range(n)
    ]


def preference_rows(n: int = ROWS) -> list[dict[str, Any]]:
    """A holdout of pairs, the right answer preferred."""
    return [
        {
            "input": {"messages": [{"role": "user", "content": question(number)}]},
            "preferred_output": [{"role": "assistant", "content": f"{number + 1}, of course"}],
            "non_preferred_output": [{"role": "assistant", "content": f"who cares about {number + 1}"}],
        }
        for number in range(n)
    ]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between attempts."""
    monkeypatch.setattr("tuner.patience._FIRST_PAUSE_S", 0.01)


@dataclass
class World:
    """`support` with the live version 1 and the candidate 2, and the models that answer for them."""

    registry: Registry
    database: AsyncEngine
    store: ArtifactStore
    folder: Path
    names: Mapping[str, str]
    adapter: AdapterMaker
    models: FakeModels = field(default_factory=FakeModels)

    def answer(self, **by_role: Callable[[str], str]) -> None:
        """Have the models answer by functions."""
        self.models.answers = {self.names[role]: answer for role, answer in by_role.items()}

    def work(self, order: TuningOrder = ORDER, **settings: Any) -> AtWork:
        """The job, which has registered version 2."""
        small: dict[str, Any] = {
            "retention_set": str(self.folder / "skills.jsonl"),
            "refusal_set": str(self.folder / "refusals.jsonl"),
            "tuner_engine_wait_s": 0.03,
        }
        found = TunerSettings(home=self.folder, cache=self.folder, base="tiny", api_key="k", **(small | settings))
        shop = Shop(
            settings=found,
            jobs=Jobs(self.database),
            events=Events(self.database),
            files=Files(self.database, self.store),
            datasets=cast(Any, None),
            registry=self.registry,
            store=self.store,
            gateway=self.models.client(),
            metrics=TunerMetrics(),
            code=CodeVersion("0.1.0"),
        )
        return AtWork(job(), order, "worker", Workspace(self.folder / "job"), Control(), shop)

    def freeze(self, rows: list[dict[str, Any]]) -> None:
        """Put a holdout into the workspace."""
        folder = self.folder / "job" / "dataset"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "holdout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    async def evaluate(self, order: TuningOrder = ORDER, **settings: Any) -> dict[str, Any]:
        """The report."""
        return await evaluate(self.work(order, **settings), 2)

    async def candidate(self, number: int) -> str:
        """The engine name of one more candidate, which becomes this version."""
        pushed = await self.registry.push(
            "support", self.adapter(float(number)), actor="tuner", lineage={"dataset": DATASET}
        )
        assert pushed.version.number == number
        return pushed.version.engine_name

    async def upload(self, content: str) -> str:
        """An uploaded file's id."""
        new = NewFile("set.jsonl", "evals")
        file = await Files(self.database, self.store).keep(new, content.encode(), key_id="key")
        return file.id

    async def all_events(self) -> list[TuningEventRow]:
        """What the job told, oldest first."""
        return (await Events(self.database).listed("ftjob-1", limit=1000))[::-1]

    async def events(self) -> list[str]:
        """What the job said of itself, oldest first."""
        return [event.message for event in await self.all_events() if event.type == "message"]


def job() -> TuningJobRow:
    """The job's row."""
    return TuningJobRow(
        id="ftjob-1",
        key_id="key",
        adapter="support",
        base="tiny",
        model="tiny",
        order={},
        state="running",
        stage="evaluating",
        wanted="run",
        asked="0" * 64,
        created_by="ann",
        worker="worker",
        dataset=DATASET,
        version=2,
    )


@pytest.fixture
def database_url(tmp_path: Path, sqlite_template: Path) -> str:
    """SQLite alone: nothing here is another database's business."""
    shutil.copyfile(sqlite_template, tmp_path / "ostler.db")
    return f"sqlite:///{tmp_path / 'ostler.db'}"


@pytest.fixture
async def world(
    registry: Registry, database: AsyncEngine, store: ArtifactStore, adapter_folder: AdapterMaker, tmp_path: Path
) -> World:
    """A candidate that is right where the incumbent is half right."""
    await registry.push("support", adapter_folder(1.0), actor="ann")
    await registry.promote("support", 1, actor="ann")
    await registry.push("support", adapter_folder(2.0), actor="tuner", lineage={"dataset": DATASET})
    async with writing(database) as connection:
        await connection.execute(insert(TuningJobRow.__table__).values(job().model_dump()))  # type: ignore[attr-defined]
    versions = (await registry.catalog()).adapters["support"].versions
    names = {"incumbent": versions[1].engine_name, "candidate": versions[2].engine_name, "base": "tiny"}
    world = World(registry, database, store, tmp_path / "tuner", names, adapter_folder)
    world.answer(candidate=right, incumbent=half_right, base=never_right)
    world.freeze(supervised_rows())
    for name, own, most in (("skills", "retention", 60), ("refusals", "refusals", 120)):
        lines = (_SHIPPED / f"{own}.jsonl").read_text().splitlines(keepends=True)
        (world.folder / f"{name}.jsonl").write_text("".join(lines[:most]))
    return world


def parts(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The parts by name."""
    return {part["name"]: part for part in report["parts"]}


def missed(report: dict[str, Any]) -> set[str]:
    """The parts that did not pass."""
    return {part["name"] for part in report["parts"] if not part["passed"]}


async def test_a_better_candidate_passes(world: World) -> None:
    """Against the pinned incumbent and the base, as evaluation, at temperature 0; the report tells it all."""
    report = await world.evaluate()
    assert report["passed"], report["reason"]
    assert (report["candidate"], report["incumbent"]) == (world.names["candidate"], world.names["incumbent"])
    assert (report["base"], report["alpha"], report["dataset"], report["format"]) == ("tiny", 0.05, DATASET, 1)
    quality, over_base = parts(report)["quality"], parts(report)["quality_over_base"]
    assert (quality["scorer"], quality["n"], quality["candidate"], quality["reference"]) == (
        "exact_match",
        ROWS,
        1,
        0.5,
    )
    assert (over_base["against"], over_base["reference"]) == ("tiny", 0.0)
    assert (parts(report)["retention"]["n"], parts(report)["retention"]["reference"]) == (60, 1.0)
    assert parts(report)["refusals"]["reference"] == 1.0
    assert parts(report)["needless_refusals"]["reference"] == 0.0
    assert [told["scorer"] for told in report["told"]] == ["token_f1"]
    assert world.models.purposes == {"evaluation"}
    assert {body["model"] for body in world.models.bodies} == set(world.names.values())
    assert all(body["temperature"] == 0 for body in world.models.bodies)
    assert report["plots"]["labels"] == [
        {"label": "even", "n": 40, "candidate": 1.0, "reference": 1.0},
        {"label": "odd", "n": 40, "candidate": 1.0, "reference": 0.0},
    ]
    assert msgspec.json.decode(msgspec.json.encode(report)) == report


async def test_the_report_can_be_kept_with_its_page(world: World) -> None:
    """The page is in the store under the digest that the report names, and the verdict goes with the version."""
    report = await world.evaluate()
    page = (world.store.fetch(report["page"]) / FILE).read_text()
    assert "support@2" in page
    await world.registry.judge("support", 2, passed=report["passed"], report=report, actor="tuner")
    record = await world.registry.version_record("support", 2)
    assert (record.verdict, record.report) == ("passed", report)


async def test_the_job_tells_what_is_held_against_what(world: World) -> None:
    """And what each part came to; never a question or an answer."""
    await world.evaluate()
    rule, first, *of_parts = await world.events()
    assert rule.startswith("The gate will want, at alpha 0.05, a gain of more than 0 in exact_match; less ")
    assert first == (
        f"The gate holds support@2 against {world.names['incumbent']}: 80 rows of the holdout, 60 of general skills, "
        "120 about refusals"
    )
    assert len(of_parts) == 7
    assert of_parts[0].startswith("Quality passed: support@2 is better than support@1: 1.000 against 0.500 on 80 rows")
    assert of_parts[-1].startswith("Latency passed: ")


@pytest.mark.parametrize("method", ["supervised", "dpo"])
async def test_how_far_it_is_is_told_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch, method: Literal["supervised", "dpo"]
) -> None:
    """As metrics, whose last count is that of all answers that were announced."""
    monkeypatch.setattr("tuner.evaluation.counting._TOLD_EVERY_S", 0.01)
    if method == "dpo":
        world.freeze(preference_rows())
    await world.evaluate(msgspec.structs.replace(ORDER, method=method))
    counts = [event.data for event in await world.all_events() if event.data is not None]
    total = 3 * ROWS * (2 if method == "dpo" else 1) + 2 * (60 + 120)
    assert {count["total_answers"] for count in counts} == {total}
    told = [count["answers"] for count in counts]
    assert told == sorted(set(told))
    assert len(told) > 1
    assert told[-1] == total


async def test_a_forgetful_candidate_is_rejected_for_that(world: World) -> None:
    """By the set of general skills."""
    world.answer(candidate=forgetful, incumbent=half_right, base=never_right)
    report = await world.evaluate()
    assert missed(report) == {"retention"}
    assert "lost general skills" in report["reason"]


async def test_a_candidate_that_is_the_incumbent_again_is_rejected_for_that(world: World) -> None:
    """The same answers are no gain."""
    world.answer(candidate=half_right, incumbent=half_right, base=never_right)
    report = await world.evaluate()
    assert missed(report) == {"quality"}
    assert report["reason"].startswith("support@2 fell short in quality: it is not shown that support@2 is better")


async def test_an_overconfident_candidate_is_rejected_for_that(world: World) -> None:
    """By the loss on the right answers, as the engine tells it, though it says the right things."""
    world.models.logprobs = {
        world.names["candidate"]: lambda answer: -3.0 if int(answer) % 5 == 0 else -0.1,
        world.names["incumbent"]: lambda _: -0.2,
    }
    report = await world.evaluate()
    assert missed(report) == {"perplexity"}
    perplexity = parts(report)["perplexity"]
    assert perplexity["unclipped"] == pytest.approx(0.8 * 0.1 + 0.2 * 3.0)
    assert perplexity["reference"] == pytest.approx(0.2)
    assert perplexity["difference"] == pytest.approx(0.8 * -0.1 + 0.2 * 0.5)
    assert perplexity["candidate"] == pytest.approx(0.2 + perplexity["difference"])


async def test_before_the_first_promote_the_base_is_to_beat(world: World, adapter_folder: AdapterMaker) -> None:
    """And nothing else is asked."""
    await world.registry.push("fresh", adapter_folder(3.0), actor="tuner", lineage={"dataset": DATASET})
    name = (await world.registry.catalog()).adapters["fresh"].versions[1].engine_name
    world.models.answers = {name: right, "tiny": never_right}
    work = world.work(msgspec.structs.replace(ORDER, adapter="fresh"))
    report = await evaluate(work, 1)
    assert report["passed"], report["reason"]
    assert (report["incumbent"], parts(report)["quality"]["against"]) == (None, "tiny")
    assert "quality_over_base" not in parts(report)
    assert {body["model"] for body in world.models.bodies} == {name, "tiny"}


async def test_a_gateway_that_does_not_know_it_yet_is_asked_again(world: World) -> None:
    """It follows within a second; busy ones pass, too."""
    world.models.refuse = [404, 503, None, 429, 404]
    assert (await world.evaluate())["passed"]


@pytest.mark.parametrize("refuse", [[503] * 9, [None] * 9 + [404] * 200])
async def test_an_engine_that_stays_away_may_be_asked_another_time(world: World, refuse: list[int | None]) -> None:
    """When the time is over that the settings wait; no half evaluation is one."""
    world.models.refuse = list(refuse)
    with pytest.raises(EngineAway, match=rf"support@2 could not be evaluated: .* answered {refuse[-1]}"):
        await world.evaluate()


async def test_the_settings_say_how_long_an_engine_is_waited_for(world: World) -> None:
    """In pauses that grow."""
    world.models.refuse = [503] * 6
    assert (await world.evaluate(tuner_engine_wait_s=0.5))["passed"]


@pytest.mark.parametrize("status", [400, 401])
async def test_a_question_that_is_refused_fails_the_job(world: World, status: int) -> None:
    """At once, as waiting does not change it."""
    world.models.refuse = [None] * 9 + [status]
    with pytest.raises(JobFailed, match=rf"support@2 could not be evaluated: .* answered {status}") as failed:
        await world.evaluate()
    assert failed.value.code == "evaluation_failed"


async def test_an_evaluation_that_is_broken_off_at_its_page_leaves_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that stores it goes on; what it has stored is removed."""
    begun, go_on, stored = threading.Event(), threading.Event(), []
    put_files = ArtifactStore.put_files

    def slowly(store: ArtifactStore, files: Mapping[str, bytes | Path]) -> Artifact:
        begun.set()
        assert go_on.wait(30)
        stored.append(put_files(store, files))
        return stored[-1]

    monkeypatch.setattr(ArtifactStore, "put_files", slowly)
    work = world.work()
    evaluating = asyncio.create_task(work.control.unless_stopped(evaluate(work, 2)))
    await until(begun.is_set, 30)
    work.control.stop("pause")
    asyncio.get_running_loop().call_later(0.05, go_on.set)
    with pytest.raises(Interrupted):
        await evaluating
    assert len(stored) == 1
    assert not world.store.holds(stored[0].digest)


async def test_an_empty_holdout_is_no_pass(world: World) -> None:
    """Nothing shows anything."""
    world.freeze([])
    report = await world.evaluate()
    assert missed(report) == {"quality", "quality_over_base", "perplexity", "latency"}
    assert "nothing shows that support@2 is better" in report["reason"]


async def test_of_a_large_holdout_the_same_rows_are_asked(world: World) -> None:
    """As many as the order says, drawn by their hash."""
    order = msgspec.structs.replace(ORDER, gate=GateOrder(rows=20))
    asked = []
    for _ in range(2):
        world.models.bodies.clear()
        report = await world.evaluate(order)
        assert parts(report)["quality"]["n"] == 20
        asked.append({body["messages"][0]["content"] for body in world.models.bodies})
    assert asked[0] == asked[1]


async def test_answers_that_are_calls_of_tools_are_left_out(world: World) -> None:
    """And that is told, since they are no text to score."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    rows = supervised_rows()
    rows[0]["messages"][-1] = {"role": "assistant", "tool_calls": [call]}
    world.freeze(rows)
    assert parts(await world.evaluate())["quality"]["n"] == ROWS - 1
    assert any("1 rows of the holdout are not asked" in message for message in await world.events())


async def test_scorers_are_the_orders_or_the_adapters(world: World) -> None:
    """The first one decides."""
    watched = Monitoring(scorers=(ScorerChoice("valid_json"), ScorerChoice("token_f1")))
    await world.registry.set_monitoring("support", watched, actor="ann")
    assert parts(await world.evaluate())["quality"]["scorer"] == "token_f1"
    gate = GateOrder(scorers=[ScorerChoice("regex", {"pattern": "[0-9]+"}), ScorerChoice("exact_match")])
    report = await world.evaluate(msgspec.structs.replace(ORDER, gate=gate))
    assert parts(report)["quality"]["scorer"] == "regex"
    assert [told["scorer"] for told in report["told"]] == ["exact_match"]


async def test_preferences_are_held_to_likelihoods(world: World) -> None:
    """The share of pairs whose preferred answer is the likelier one, a token at a time; ties count half."""
    world.freeze(preference_rows())
    world.models.logprobs = {
        world.names["candidate"]: lambda answer: -3.0 if answer.endswith("of course") else -4.0,
        world.names["incumbent"]: lambda _: -1.0,
        "tiny": lambda answer: -4.0 if answer.endswith("of course") else -3.0,
    }
    report = await world.evaluate(msgspec.structs.replace(ORDER, method="dpo"))
    assert report["passed"], report["reason"]
    quality = parts(report)["quality"]
    assert (quality["scorer"], quality["candidate"], quality["reference"]) == ("preference", 1.0, 0.5)
    assert parts(report)["quality_over_base"]["reference"] == 0.0
    assert "perplexity" not in parts(report)
    assert [told["scorer"] for told in report["told"]] == ["exact_match", "token_f1", "clipped_loss"]


async def test_sets_of_the_order_replace_ours(world: World) -> None:
    """Those of its files, else those of the settings."""
    rows = [{"messages": row["messages"]} for row in supervised_rows(60)]
    retention = await world.upload("".join(json.dumps(row) + "\n" for row in rows))
    world.answer(candidate=right, incumbent=half_right, base=right)
    gate = GateOrder(retention_file=retention)
    report = await world.evaluate(msgspec.structs.replace(ORDER, gate=gate))
    assert (parts(report)["retention"]["n"], parts(report)["retention"]["reference"]) == (60, 1.0)
    file = world.folder / "own.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:50]))
    assert parts(await world.evaluate(retention_set=str(file)))["retention"]["n"] == 50


async def test_without_sets_of_others_ours_are_asked(world: World) -> None:
    """All of them, of the candidate and the base."""
    report = await world.evaluate(retention_set="", refusal_set="")
    assert report["passed"], report["reason"]
    found = parts(report)
    assert found["retention"]["n"] == len(skills())
    assert found["refusals"]["n"] == found["needless_refusals"]["n"] == len(harmful())


async def test_sets_that_cannot_be_used_are_told_at_once(world: World) -> None:
    """Whose they are, and at which line; before anybody is asked."""
    broken = await world.upload('{"messages": []}\n')
    cases = {
        "invalid_hyperparameters": GateOrder(retention_file=broken),
        "invalid_hyperparameters ": GateOrder(refusal_file=broken),
        "invalid_hyperparameters  ": GateOrder(refusal_file="file-gone"),
    }
    for code, gate in cases.items():
        with pytest.raises(JobFailed) as failed:
            await world.evaluate(msgspec.structs.replace(ORDER, gate=gate))
        assert failed.value.code == code.strip()
        assert failed.value.param in {"gate.retention_file", "gate.refusal_file"}
    with pytest.raises(JobFailed, match="No such file") as failed:
        await world.evaluate(refusal_set=str(world.folder / "nowhere.jsonl"))
    assert failed.value.code == "evaluation_failed"
    assert str(world.folder) not in failed.value.message
    assert world.models.bodies == []
