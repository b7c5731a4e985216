"""The few numbers that a report's plots are drawn of."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tuner.evaluation.comparing import differences
from tuner.evaluation.contenders import Contenders
from tuner.evaluation.gate import Measured
from tuner.evaluation.holdout import Holdout

_STEPS = 20
_MOST_LABELS = 20
_MOST_POINTS = 200
_WORST_ROWS = 10


def plots(
    contenders: Contenders, measured: Measured, holdout: Holdout, metrics: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What is drawn, from the first scorer on the holdout and from the training's metrics events.

    differences  how many rows have a paired difference near -1, -0.9, and so on to 1
    worst_rows   lines of holdout.jsonl on which the candidate lost most
    labels       by label: rows, and both models' mean scores
    loss         by step: training and validation loss (nats a token)
    """
    scorer, by_model = next(iter(measured.scores.items()))
    own, other = by_model[contenders.candidate], by_model[contenders.reference]
    found = differences(own, other)
    return {
        "scorer": scorer,
        "differences": _histogram([each for each in found if each is not None]),
        "worst_rows": _worst(found, holdout.lines),
        "labels": _by_label(holdout.labels, own, other),
        "loss": _loss(metrics),
    }


def _histogram(values: Sequence[float]) -> list[int]:
    """Counts around steps of equal width, so that no difference at all is in the middle of a bin."""
    counts = [0] * (_STEPS + 1)
    for value in values:
        counts[round((value + 1) / 2 * _STEPS)] += 1
    return counts


def _worst(found: Sequence[float | None], lines: Sequence[int]) -> list[int]:
    lost = sorted((each, line) for each, line in zip(found, lines, strict=True) if each is not None and each < 0)
    return [line for _, line in lost[:_WORST_ROWS]]


def _by_label(
    labels: Sequence[str | None], own: Sequence[float | None], other: Sequence[float | None]
) -> list[dict[str, Any]]:
    """The commonest labels first; rows without a label, or that only one model was scored on, are left out."""
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for label, one, two in zip(labels, own, other, strict=True):
        if label is not None and two is not None:
            groups[label].append((one or 0.0, two))
    commonest = sorted(groups.items(), key=lambda each: (-len(each[1]), each[0]))
    return [
        {
            "label": label,
            "n": len(pairs),
            "candidate": fmean(one for one, _ in pairs),
            "reference": fmean(two for _, two in pairs),
        }
        for label, pairs in commonest[:_MOST_LABELS]
    ]


def _loss(metrics: Sequence[Mapping[str, Any]]) -> dict[str, list[list[float]]]:
    """A step that a resumed job came to again counts as it was last."""
    curves: dict[str, dict[int, float]] = {"train_loss": {}, "full_valid_loss": {}}
    for data in metrics:
        for name, curve in curves.items():
            value = data.get(name)
            if value is not None and math.isfinite(value):
                curve[int(data["step"])] = float(value)
    train, validation = (_thinned(sorted(curve.items())) for curve in curves.values())
    return {"train": train, "validation": validation}


def _thinned(points: Sequence[tuple[int, float]]) -> list[list[float]]:
    """So many points that a line of them looks the same; the last one is kept."""
    every = -(-len(points) // _MOST_POINTS) if points else 1
    return [list(point) for point in [*points[:-1:every], *points[-1:]]]
