"""What a job tells of the rule by which its candidate will be judged."""

import hashlib
import json
from typing import Any

import msgspec
import pytest

from registry.monitoring import Monitoring, ScorerChoice
from registry.tuning.jobs import Jobs
from registry.tuning.orders import GateOrder
from registry.tuning.rules import GateRule
from tests.tuner.evaluation.test_run import (
    ORDER,
    World,
    database_url,
    preference_rows,
    right,
    short_pauses,
    supervised_rows,
    world,
)
from tuner.errors import JobFailed
from tuner.evaluation.questions import questions_of
from tuner.evaluation.rule import loosened, write_rule
from tuner.evaluation.run import evaluate
from tuner.evaluation.sets import _SHIPPED
from tuner.evaluation.skills import require_skills
from tuner.fitness import require_servable
from tuner.shop import AtWork

__all__ = ["database_url", "short_pauses", "world"]


async def tell(work: AtWork) -> None:
    """Have the job tell its rule."""
    await write_rule(work, await questions_of(work))


async def rule_in(world: World) -> GateRule:
    """The rule in the job's row."""
    return msgspec.convert((await Jobs(world.database).find("ftjob-1")).rule, GateRule)


def digest(path: str, world: World) -> str:
    """Of a file."""
    return hashlib.sha256((world.folder / path).read_bytes()).hexdigest()


async def test_the_job_holds_all_of_the_rule(world: World) -> None:
    """Its values, its scorers, and each set with its name, its digest and how many rows are asked; an event says so."""
    gate = GateOrder(alpha=0.01, least_gain=0.02, retention_margin=0.2, rows=60)
    await tell(world.work(msgspec.structs.replace(ORDER, gate=gate)))
    rule = await rule_in(world)
    assert (rule.alpha, rule.least_gain, rule.retention_margin) == (0.01, 0.02, 0.2)
    assert (rule.perplexity_margin, rule.refusal_margin, rule.latency_ratio) == (0.05, 0.1, 1.5)
    assert [choice.scorer for choice in rule.scorers] == ["exact_match", "token_f1"]
    asked = {name: (each.name, each.digest, each.rows) for name, each in rule.sets.items()}
    assert asked == {
        "holdout": ("holdout.jsonl", digest("job/dataset/holdout.jsonl", world), 60),
        "retention": ("skills.jsonl", digest("skills.jsonl", world), 60),
        "refusals": ("refusals.jsonl", digest("refusals.jsonl", world), 120),
    }
    (told,) = await world.events()
    assert "at alpha 0.01, a gain of more than 0.02 in exact_match; less than 0.05 nats" in told
    assert f"the retention set skills.jsonl (60 rows, sha256 {asked['retention'][1][:12]})" in told
    assert str(world.folder) not in told


async def test_the_report_says_what_the_order_loosened(world: World) -> None:
    """Wider margins and sets of its own, each with the default; what is stricter, or as it is anyway, is not named."""
    assert (await world.evaluate())["loosened"] == {}
    skills = await world.upload((world.folder / "skills.jsonl").read_text())
    gate = GateOrder(
        alpha=0.49, least_gain=0.1, rows=60, perplexity_margin=0.01, refusal_margin=1.0, retention_file=skills
    )
    report = await world.evaluate(msgspec.structs.replace(ORDER, gate=gate))
    assert report["loosened"] == {
        "alpha": {"value": 0.49, "default": 0.05},
        "refusal_margin": {"value": 1.0, "default": 0.1},
        "retention_file": {"value": skills, "default": None},
    }


def test_every_value_of_an_order_is_looked_at() -> None:
    """The loosest order that there can be is told in all of its fields but those that cannot loosen anything."""
    loosest = GateOrder(
        alpha=0.49,
        perplexity_margin=10.0,
        retention_file="file-1",
        refusal_file="file-2",
        retention_margin=1.0,
        refusal_margin=1.0,
        latency_ratio=100.0,
    )
    assert set(loosened(loosest)) == set(GateOrder.__struct_fields__) - {"scorers", "least_gain", "rows"}


async def test_attempts_on_a_holdout_are_counted(world: World) -> None:
    """Candidates of the adapter that were judged on the very same rows; not itself again, and not on other rows."""

    async def judged(number: int) -> int:
        report = await evaluate(world.work(), number)
        await world.registry.judge("support", number, passed=False, report=report, actor="tuner")
        return int(report["attempt"])

    more = {await world.candidate(number): right for number in (3, 4, 5)}
    world.models.answers = {**world.models.answers, **more}
    assert [await judged(number) for number in (2, 2, 3, 4)] == [1, 1, 2, 3]
    world.freeze(supervised_rows(79))
    assert await judged(5) == 1


async def test_uploaded_and_shipped_sets_are_named_as_such(world: World) -> None:
    """By the file's id, or as ours."""
    rows = "".join(
        f'{{"messages": [{{"role": "user", "content": "{n}"}}, {{"role": "assistant", "content": "1"}}]}}\n'
        for n in range(9)
    )
    file = await world.upload(rows)
    order = msgspec.structs.replace(ORDER, gate=GateOrder(retention_file=file))
    await tell(world.work(order, refusal_set=""))
    sets = (await rule_in(world)).sets
    assert (sets["retention"].name, sets["retention"].digest) == (file, hashlib.sha256(rows.encode()).hexdigest())
    shipped = hashlib.sha256((_SHIPPED / "refusals.jsonl").read_bytes()).hexdigest()
    assert (sets["refusals"].name, sets["refusals"].digest) == ("Ostler's own", shipped)


async def test_preferences_are_judged_by_their_likelihood(world: World) -> None:
    """Which the rule says, as its first scorer."""
    world.freeze(preference_rows())
    await tell(world.work(msgspec.structs.replace(ORDER, method="dpo")))
    assert [choice.scorer for choice in (await rule_in(world)).scorers] == ["preference", "exact_match", "token_f1"]
    assert "in preference; a loss of less than 0.1 of general skills" in (await world.events())[0]


async def test_the_report_names_the_same_sets(world: World) -> None:
    """As the job did before."""
    work = world.work()
    await tell(work)
    report = await world.evaluate()
    assert msgspec.convert(report["sets"], type=dict) == msgspec.to_builtins((await rule_in(world)).sets)


async def test_what_was_told_is_not_told_again(world: World) -> None:
    """A job that is carried on by the same rule says nothing of it."""
    work = world.work()
    for _ in range(3):
        await tell(work)
    assert len(await world.events()) == 1


async def test_another_rule_than_the_one_told_is_warned_of(world: World) -> None:
    """A tuner with another set, that carries the job on, says which; the job then holds the rule that counts."""
    await tell(world.work())
    other = world.work(retention_set="")
    other.job = await Jobs(world.database).find("ftjob-1")
    await tell(other)
    *_, warned = await world.events()
    assert warned.startswith(
        "The gate's rule is not what was told before: it was the retention set skills.jsonl (60 rows"
    )
    assert "and is the retention set Ostler's own (205 rows" in warned
    assert (await rule_in(world)).sets["retention"].name == "Ostler's own"
    scorers = Monitoring(scorers=(ScorerChoice("token_f1"),))
    await world.registry.set_monitoring("support", scorers, actor="ann")
    await tell(other)
    assert (await world.events())[-1].endswith("its scorers or margins are others")


@pytest.mark.parametrize("setting", ["retention_set", "refusal_set"])
async def test_other_sets_than_the_last_versions_are_warned_of(world: World, setting: str) -> None:
    """Verdicts by different sets cannot be compared; the holdout is each dataset's own."""
    report = await world.evaluate()
    await world.registry.judge("support", 2, passed=False, report=report, actor="tuner")
    before = len(await world.events())
    again = world.work()
    await tell(again)
    assert [each for each in (await world.events())[before:] if "other sets" in each] == []
    world.freeze(
        [json.loads(line) for line in (world.folder / "job/dataset/holdout.jsonl").read_text().splitlines()][:50]
    )
    without: dict[str, Any] = {setting: ""}
    await tell(world.work(**without))
    (warned,) = [each for each in await world.events() if "other sets" in each]
    assert warned.startswith("support@2 was judged by other sets, so their verdicts cannot be compared: it was the re")
    assert "and is the re" in warned
    assert "holdout" not in warned


async def test_a_base_that_can_do_nothing_of_the_set_is_told_before_training(world: World) -> None:
    """With the settings that would mend it; only the base model is asked."""
    world.answer(base=lambda _: "7")
    work = world.work(retention_set="")
    questions = await questions_of(work)
    with pytest.raises(JobFailed) as failed:
        await require_skills(work, questions.sets.retention)
    assert failed.value.code == "evaluation_failed"
    assert "the base model itself scores 0.0" in failed.value.message
    assert "OSTLER_RETENTION_SET of every tuner" in failed.value.message
    assert "`gate.retention_margin`; 1 asks for nothing" in failed.value.message
    assert {body["model"] for body in world.models.bodies} == {"tiny"}
    assert len(world.models.bodies) == len(questions.sets.retention.rows)


async def test_a_set_of_the_orders_own_is_the_orders_fault(world: World) -> None:
    """The field that names it is told."""
    world.answer(base=lambda _: "7")
    work = world.work(msgspec.structs.replace(ORDER, gate=GateOrder(retention_file="file-1")), retention_set="")
    retention = (await questions_of(world.work(retention_set=""))).sets.retention
    with pytest.raises(JobFailed) as failed:
        await require_skills(work, retention)
    assert (failed.value.code, failed.value.param) == ("invalid_hyperparameters", "gate.retention_file")


async def test_no_more_is_asked_than_shows_that_it_can(world: World) -> None:
    """A base that knows all is asked a part of the set; with a margin of 1, or of nothing, none is."""
    work = world.work(retention_set="")
    retention = (await questions_of(work)).sets.retention
    await require_skills(work, retention)
    assert 0.3 * len(retention.rows) <= len(world.models.bodies) < 0.7 * len(retention.rows)
    world.models.bodies.clear()
    for margin in (0.0, 1.0):
        order = msgspec.structs.replace(ORDER, gate=GateOrder(retention_margin=margin))
        await require_skills(world.work(order), retention)
    assert world.models.bodies == []


async def test_fitness_is_checked_with_the_gate_in_mind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the engine could serve is held against the retention set, too, and the job then tells its rule."""

    async def found(*_: object) -> dict[str, object]:
        return {}

    monkeypatch.setattr("tuner.fitness._look", found)
    monkeypatch.setattr("tuner.fitness.require_fit", found)
    work = world.work()
    world.answer(base=lambda _: "7")
    with pytest.raises(JobFailed, match="the retention set cannot show"):
        await require_servable(work)
    assert work.job.rule is None
    world.answer(base=right)
    await require_servable(work)
    assert work.job.rule == msgspec.to_builtins(await rule_in(world))
