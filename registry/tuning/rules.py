"""What a job's gate holds its candidate to, with nothing of it left open: written in the job before it is trained."""

import msgspec

from registry.monitoring import ScorerChoice


class AskedSet(msgspec.Struct, frozen=True):
    """Questions that a gate asks.

    Attributes:
        name: an uploaded file's id, the file's own name where a tuner's settings name one, or ``Ostler's own``.
        digest: SHA-256 of its content.
        rows: how many of its rows are asked.
    """

    name: str
    digest: str
    rows: int


class GateRule(msgspec.Struct, frozen=True):
    """The values that decide; `registry.tuning.orders.GateOrder` says what each means.

    Attributes:
        scorers: the first decides, the others are told; ``preference`` where the job learns from preferences.
        sets: what is asked: ``holdout``, ``retention`` and ``refusals``.
    """

    scorers: list[ScorerChoice]
    alpha: float
    least_gain: float
    perplexity_margin: float
    retention_margin: float
    refusal_margin: float
    latency_ratio: float
    sets: dict[str, AskedSet]
