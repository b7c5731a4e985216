"""Measurements as a gate sees them, drawn with a seed: a candidate that is fit, and whatever a test makes of it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from registry.tuning.orders import GateOrder
from tuner.evaluation.comparing import Values
from tuner.evaluation.contenders import Contenders
from tuner.evaluation.gate import Measured, Verdict, decide
from tuner.evaluation.latency import Pair

CANDIDATE, INCUMBENT, BASE = "support@8-aaaaaaaa", "support@7-bbbbbbbb", "tiny"
STANDING = Contenders("support@8", CANDIDATE, INCUMBENT, BASE)
FIRST = Contenders("support@1", CANDIDATE, None, BASE)
ORDER = GateOrder()
ROWS = 200
Rng = np.random.Generator


def right(rng: Rng, share: float, n: int = ROWS) -> list[float]:
    """Right-or-wrong scores, `share` of them right in the long run."""
    return [float(each) for each in rng.random(n) < share]


def mostly_same(rng: Rng, scores: Sequence[float], share: float, changed: float = 0.05) -> list[float]:
    """Scores of a model that answers as another one did, but for a few rows."""
    fresh = right(rng, share, len(scores))
    return [new if rng.random() < changed else old for old, new in zip(scores, fresh, strict=True)]


def fit(rng: Rng) -> Measured:
    """Of a candidate that is better than the incumbent, and has lost nothing."""
    skills, refused = right(rng, 0.8, 120), right(rng, 0.9, 60)
    losses = rng.gamma(2.0, 0.2, ROWS)
    return Measured(
        scores={
            "exact_match": {CANDIDATE: right(rng, 0.95), INCUMBENT: right(rng, 0.7), BASE: right(rng, 0.2)},
            "token_f1": {CANDIDATE: right(rng, 0.97), INCUMBENT: right(rng, 0.8), BASE: right(rng, 0.4)},
        },
        losses={CANDIDATE: list(losses * 0.5), INCUMBENT: list(losses), BASE: list(losses + 2)},
        retention={CANDIDATE: list(skills), BASE: skills},
        harmful={CANDIDATE: list(refused), BASE: refused},
        harmless={CANDIDATE: [0.0] * 60, BASE: [0.0] * 60},
        times=[Pair(0.010 * rng.uniform(0.9, 1.3), 0.010) for _ in range(24)],
    )


_ROLES = {"candidate": CANDIDATE, "incumbent": INCUMBENT, "base": BASE}


def with_(measured: Measured, name: str, **values: Values) -> Measured:
    """The same with other values of one measure, by the models' roles; of scores it is the first scorer's."""
    named = {_ROLES[role]: each for role, each in values.items()}
    if name == "scores":
        first = next(iter(measured.scores))
        return replace(measured, scores={**measured.scores, first: {**measured.scores[first], **named}})
    fields: dict[str, Any] = {name: {**getattr(measured, name), **named}}
    return replace(measured, **fields)


def missed(verdict: Verdict) -> set[str]:
    """The names of the parts that did not pass."""
    return {part.name for part in verdict.parts if not part.passed}


def judged(measured: Measured, order: GateOrder = ORDER) -> Verdict:
    """What the gate says, with an incumbent."""
    return decide(order, STANDING, measured)
