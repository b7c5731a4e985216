"""How the story goes: how many requests, how fast, and by which policy the adapter is kept meanwhile.

Hours and days are seconds here, so that it fits ten minutes on two cores. The tests hold all the same, for they look at
sessions and not at the clock.
"""

from dataclasses import dataclass
from typing import Any

__all__ = ["ADAPTER", "KEYS", "Plan"]

ADAPTER = "support"
KEYS = ("web", "app", "email", "partner")
"""The desk's channels, each with an API key of its own."""
SCORER = "json_equality"
_WINDOW, _REFERENCE = 40, 80


@dataclass(frozen=True)
class Plan:
    """The story's sizes.

    Attributes:
        before_pace, pace: tickets a second, before the shift and after it.
        quiet_pace: the same while others need the cores: the first drift report, the training, the gate.
        at_once: requests under way at most.
        feedback_after_s: how long the desk takes to say what was right, seconds: from, to.
        before: answers before the monitor looks for drift, and the world shifts; its window and reference fill them.
        after: answers that the quality after the promotion is the mean of.
        level_from: sessions that the expected level is taken from.
        rows: corrections that a training waits for.
        epochs, learning_rate: of the training; the rate as a multiple of the tuner's own.
        gate_rows: held out tickets that the gate asks about at most.
        step_sessions: pairs of sessions at each weight of the canary.
        shadow_share: the share of the requests that the base model answers, too.
        bad_weight: the share of the sessions that the bad version is given.
        longest_s: when the story has failed.
        seed: of tickets, keys and pauses.
    """

    before_pace: float = 6.0
    pace: float = 8.0
    quiet_pace: float = 1.0
    at_once: int = 8
    feedback_after_s: tuple[float, float] = (2.0, 5.0)
    before: int = 130
    after: int = 250
    level_from: int = 60
    rows: int = 900
    epochs: int = 4
    learning_rate: float = 2.0
    gate_rows: int = 64
    step_sessions: int = 20
    shadow_share: float = 0.15
    bad_weight: float = 0.3
    longest_s: float = 600.0
    seed: int = 1

    @classmethod
    def fast(cls) -> "Plan":
        """Less traffic, for a test."""
        return cls(after=200, rows=800)

    def monitoring(self) -> dict[str, Any]:
        """How the adapter is watched: everything is captured, and the desk's labels score each answer."""
        return {
            "capture": 1.0,
            "capture_days": 1.0,
            "scorers": [{"scorer": SCORER}],
            "drift": {"window_rows": _WINDOW, "reference_rows": _REFERENCE},
            "golden_every_h": 0.0,
        }

    def policy(self) -> dict[str, Any]:
        """What Ostler may do by itself."""
        return {
            "mode": "act",
            "quality": {
                "scorer": SCORER,
                "level": None,
                "level_observations": self.level_from,
                "drop": 0.1,
                "alarm_every": 10_000,
                "alpha": 0.05,
            },
            "retrain": {
                "least_rows": self.rows,
                "sources": ["correction"],
                "most_of_one_key": 0.4,
                "cool_down_h": 1.0,
                "job": self._job(),
            },
            "rollout": {
                "steps": [0.3, 0.6],
                "least_sessions": self.step_sessions,
                "least_minutes": 0.0,
                "longest_h": 1.0,
                "holdback": 0.1,
                "holdback_h": 0.008,
                "latency_ratio": 4.0,
            },
            "reason": "the demo's story: everything by itself, in minutes",
        }

    def _job(self) -> dict[str, Any]:
        hyperparameters = {
            "batch_size": 16,
            "n_epochs": self.epochs,
            "learning_rate_multiplier": self.learning_rate,
        }
        ostler = {
            "validation_share": 0.0,
            "holdout_share": 0.08,
            "replay_share": 1.0,
            "near_duplicates": None,
            "stopping": {"patience": 0, "checkpoints": 1},
            "gate": {"rows": self.gate_rows, "retention_margin": 0.16},
        }
        return {"hyperparameters": hyperparameters, "ostler": ostler}
