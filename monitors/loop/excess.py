"""Evidence that one version fails more often than another one at the same time, by more than is allowed.

Sources:
    Turner, Ly and Grünwald, "Generic E-variables for exact sequential k-sample tests that allow for optional stopping",
        arXiv 2106.02693: the e-variable of a block of observations of two groups.
    Turner and Grünwald, "Exact anytime-valid confidence intervals for contingency tables and beyond", arXiv 2203.09785:
        the same for a null hypothesis that allows for a difference.
    Shin, Ramdas and Rinaldo, arXiv 2203.03532: bets that begin again and again.
"""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

_NOTHING = -700.0
"""The logarithm of no evidence: too small to count in any sum."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many requests of a version there were, and how many of them failed; `failed` may be an array of runs."""

    failed: Any
    requests: int


@dataclass
class ExcessTest:
    """Evidence against 'the new version never fails more often than q + most (1 - q)', where q is the other's rate.

    That is: against a version that fails wherever the installation fails for both, and by itself at most `most` of the
    time. q may change from stretch to stretch of the traffic as it likes, and nobody need know it.

    In a stretch of a requests of the new version and b of the other one, the bet that they fail with probabilities A
    and B wins ::

        (A/P)^f ((1-A)/(1-P))^(a-f) (B/Q)^g ((1-B)/(1-Q))^(b-g)

    for f and g failures. P = Q + most (1 - Q) is the likeliest rate that is allowed (the projection of the bet in the
    Kullback-Leibler divergence), where Q solves ``a A/P + b B/Q = a + b``. On average no version that keeps to the
    above wins by it: with s = (A-P)/(P(1-P)) and t = (B-Q)/(Q(1-Q)) the mean is at most
    ``exp(a s (p - P) + b t (q - Q))``, by 1 + x <= exp(x), and ``a s (1 - most) + b t = 0`` makes the exponent
    ``a s (p - q - most (1 - q))``, which is not above 0. That needs the mean rates in the stretch alone; how long it
    is may depend on whose requests came, not on how they went.

    Bets begin at the outset, and anew after each stretch in which the new version fails; the k-th has the weight
    1 / (k (k + 1)), and all weights are 1 together. So the whole ever reaches 1 / alpha with probability alpha at most
    (Ville's inequality), and a burst is found as soon after a long good time as at once.

    Attributes:
        BETS: what A is bet to be, beyond what is allowed: `most` + (1 - `most`) times this.
        OTHER: what B is bet to be.
        most: in (0, 1).
        alpha: the probability of ever rejecting what is true.
        begun: how often bets have begun.
        logs: the evidence of each bet, over the beginnings so far (nats).
        peak: the largest evidence so far (nats).
    """

    BETS: ClassVar[Any] = np.array([0.1, 0.35, 0.95])
    OTHER: ClassVar[float] = 0.01

    most: float
    alpha: float
    begun: Any = 0
    logs: Any = field(default_factory=lambda: np.full(3, _NOTHING))
    peak: Any = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.most < 1 and 0 < self.alpha < 1):
            raise ValueError("most and alpha must lie between 0 and 1, both excluded")

    def update(self, new: Tally, other: Tally) -> None:
        """Take the next stretch, in which there is at least one request of each."""
        self.logs = self.logs + self._won(new, other)
        to_come = np.expand_dims(-np.log(np.asarray(self.begun) + 1.0), -1)
        whole = np.logaddexp.reduce(np.logaddexp(self.logs, to_come), axis=-1) - math.log(len(self.BETS))
        self.peak = _plain(np.maximum(self.peak, whole))
        fails = np.asarray(new.failed) > 0
        self.begun = _plain(np.asarray(self.begun) + fails)
        number = np.maximum(np.asarray(self.begun), 1.0)
        weight = np.where(fails, -np.log(number * (number + 1.0)), 2 * _NOTHING)
        self.logs = np.logaddexp(np.maximum(self.logs, _NOTHING), np.expand_dims(weight, -1))

    def _won(self, new: Tally, other: Tally) -> Any:
        """What each bet wins by a stretch (nats)."""
        a, b = new.requests, other.requests
        bet, other_bet = self.most + (1 - self.most) * self.BETS, self.OTHER
        linear = (a + b) * self.most - a * bet - b * other_bet * (1 - self.most)
        square = (a + b) * (1 - self.most)
        shared = (-linear + np.sqrt(linear**2 + 4 * square * b * other_bet * self.most)) / (2 * square)
        allowed = shared + self.most * (1 - shared)
        failed, others = np.expand_dims(new.failed, -1), np.expand_dims(other.failed, -1)
        ours = failed * np.log(bet / allowed) + (a - failed) * np.log((1 - bet) / (1 - allowed))
        return ours + others * np.log(other_bet / shared) + (b - others) * np.log((1 - other_bet) / (1 - shared))

    @property
    def rejected(self) -> Any:
        """Whether the evidence was ever enough; it stays so."""
        return self.peak >= -math.log(self.alpha)

    def state(self) -> dict[str, Any]:
        """Everything, as JSON."""
        logs, begun, peak = (np.asarray(each).tolist() for each in (self.logs, self.begun, self.peak))
        return {"most": self.most, "alpha": self.alpha, "begun": begun, "logs": logs, "peak": peak}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The test that `state` was taken from."""
        return cls(**state | {"logs": np.asarray(state["logs"])})


def _plain(value: Any) -> Any:
    return value if np.ndim(value) else value.item()
