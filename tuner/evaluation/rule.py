"""What a job's gate holds its candidate to: written into the job before anything is trained.

Whoever carries the job on reads the sets of its own settings. Where these are others than those of the rule, or than
those that the adapter's last version was judged by, an event says so: such verdicts cannot be compared. Where the
order asks for less than the defaults do, the report says so.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from registry.catalog import Version
from registry.monitoring import ScorerChoice
from registry.tuning.orders import GateOrder, TuningOrder
from registry.tuning.rules import GateRule
from tuner.evaluation.parts import PREFERENCE
from tuner.evaluation.questions import Questions
from tuner.shop import AtWork

_SHOWN_DIGITS = 12
_JUDGED = ("passed", "rejected")
_TITLES = {"holdout": "holdout", "retention": "retention set", "refusals": "refusal set"}
_OF_ALL_VERSIONS = ("retention", "refusals")
_LOOSER_IF_LARGER = ("alpha", "perplexity_margin", "retention_margin", "refusal_margin", "latency_ratio")
_OWN_SETS = ("retention_file", "refusal_file")
Asked = Mapping[str, Mapping[str, Any]]


async def write_rule(work: AtWork, questions: Questions) -> None:
    """Have the job's row and its events tell the rule; what they tell already is not told again."""
    rule = rule_of(work.order, questions)
    known, found = work.job.rule, msgspec.to_builtins(rule)
    if found == known:
        return
    if known is None:
        await work.tell(_in_words(rule))
        await _compare_with_last(work, found["sets"])
    else:
        others = _others(known["sets"], found["sets"]) or ["its scorers or margins are others"]
        await work.tell(f"The gate's rule is not what was told before: {'; '.join(others)}", "warn")
    await work.note(rule=found)


def rule_of(order: TuningOrder, questions: Questions) -> GateRule:
    """The rule with nothing left open."""
    gate, scorers = order.gate, list(questions.holdout.golden.scorers)
    return GateRule(
        scorers=[ScorerChoice(PREFERENCE), *scorers] if order.method == "dpo" else scorers,
        alpha=gate.alpha,
        least_gain=gate.least_gain,
        perplexity_margin=gate.perplexity_margin,
        retention_margin=gate.retention_margin,
        refusal_margin=gate.refusal_margin,
        latency_ratio=gate.latency_ratio,
        sets=dict(questions.asked),
    )


def loosened(gate: GateOrder) -> dict[str, dict[str, Any]]:
    """What an order asks for less than the defaults do, field by field, as its ``value`` and the ``default``.

    Sets of its own count as well, since they may ask what nobody can lose. `least_gain` and `rows` are not among them:
    the first cannot lie below its default, and fewer rows widen the intervals that have to lie clear of their limits.
    """
    default = GateOrder()
    found = [name for name in _LOOSER_IF_LARGER if getattr(gate, name) > getattr(default, name)]
    found += [name for name in _OWN_SETS if getattr(gate, name) is not None]
    return {name: {"value": getattr(gate, name), "default": getattr(default, name)} for name in found}


def _in_words(rule: GateRule) -> str:
    decides = rule.scorers[0].scorer
    sets = (_named(name, msgspec.to_builtins(asked)) for name, asked in rule.sets.items())
    likelier = f"less than {rule.perplexity_margin:g} nats a token more on right answers; "
    return (
        f"The gate will want, at alpha {rule.alpha:g}, a gain of more than {rule.least_gain:g} in {decides}; "
        f"{'' if decides == PREFERENCE else likelier}a loss of less than {rule.retention_margin:g} of general skills, "
        f"and of less than {rule.refusal_margin:g} of refusals; and a time for a token that is not shown to be more "
        f"than {rule.latency_ratio:g} times the incumbent's. It asks {', '.join(sets)}"
    )


def _named(name: str, asked: Mapping[str, Any]) -> str:
    return f"the {_TITLES[name]} {asked['name']} ({asked['rows']} rows, sha256 {asked['digest'][:_SHOWN_DIGITS]})"


async def _compare_with_last(work: AtWork, asked: Asked) -> None:
    """Warn of sets that are others than those by which the adapter's last version was judged."""
    last = await _last_judged(work)
    if last is None:
        return
    version, before = last
    kept = {name: before[name] for name in _OF_ALL_VERSIONS if name in before}
    if others := _others(kept, asked):
        said = f"{version.adapter}@{version.number} was judged by other sets, so their verdicts cannot be compared"
        await work.tell(f"{said}: {'; '.join(others)}", "warn")


async def _last_judged(work: AtWork) -> tuple[Version, Asked] | None:
    """The adapter's newest version whose report names its sets, with these."""
    adapter = (await work.shop.registry.catalog()).adapters.get(work.order.adapter)
    versions = () if adapter is None else adapter.versions.values()
    for version in sorted(versions, key=lambda each: -each.number):
        if version.verdict in _JUDGED:
            record = await work.shop.registry.version_record(version.adapter, version.number)
            if (sets := (record.report or {}).get("sets")) is not None:
                return version, sets
    return None


def _others(before: Asked, now: Asked) -> list[str]:
    """In what sets differ, in words."""
    return [
        f"it was {_named(name, old)}, and is {_named(name, now[name])}"
        for name, old in before.items()
        if old["digest"] != now[name]["digest"] or old["rows"] != now[name]["rows"]
    ]
