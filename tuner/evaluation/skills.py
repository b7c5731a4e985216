"""Whether the base model can do enough of the retention set for it to show a loss: asked before training, not after."""

from collections.abc import Sequence
from dataclasses import replace

from monitors.judging.asking import Asker
from monitors.judging.golden import GoldenSet
from tuner.errors import JobFailed
from tuner.evaluation.gate import cannot_show, enough_skill
from tuner.evaluation.measuring import asker_of, refusals_told, row_means
from tuner.shop import AtWork

_ROWS_AT_ONCE = 64


async def require_skills(work: AtWork, retention: GoldenSet) -> None:
    """Refuse a retention set of which the base model can do too little.

    Raises:
        JobFailed: it can, or it could not be asked.
        EngineAway: nobody answered for too long.
    """
    gate, asker = work.order.gate, asker_of(work)
    enough = enough_skill(gate)
    if enough <= 0:
        return
    with refusals_told(asker, work.order.base):
        score = await _score(asker, work.order.base, retention, enough)
    why = cannot_show("a version", score, gate)
    if why is None:
        return
    if gate.retention_file is not None:
        raise JobFailed("invalid_hyperparameters", why, "gate.retention_file")
    raise JobFailed("evaluation_failed", why)


async def _score(asker: Asker, model: str, retention: GoldenSet, enough: float) -> float | None:
    """The mean score, of as many rows as show that all of them come to `enough`; None where no row can be scored."""
    known: list[float] = []
    for rows in _in_parts(retention):
        if sum(known) >= enough * len(retention.rows):
            break
        known += [value for value in await row_means(asker, model, rows) if value is not None]
    return sum(known) / len(known) if known else None


def _in_parts(golden: GoldenSet) -> Sequence[GoldenSet]:
    starts = range(0, len(golden.rows), _ROWS_AT_ONCE)
    return [replace(golden, rows=golden.rows[start : start + _ROWS_AT_ONCE]) for start in starts]
