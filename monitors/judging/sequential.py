"""Tests that may be looked at after every observation: their error rates hold however often one looks.

Sources:
    Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", arXiv 2010.09686:
        the betting test and the empirical-Bernstein confidence sequence.
    Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for sequential change detection",
        arXiv 2203.03532: the e-CUSUM, and that a mean of e-detectors is one.

An observation lies in [0, 1]; a difference of two scores lies in [-1, 1], and `to_unit` brings it there. A bet uses
earlier observations alone. Evidence is kept as a logarithm, so that it neither overflows nor vanishes, and a state has
a constant size. An observation may also be an array with one element for each of many independent runs: so simulations
test the very code that decides.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np


def to_unit(difference: Any) -> Any:
    """A difference of two scores, in [-1, 1], as an observation in [0, 1]; no difference is 1/2."""
    return (difference + 1) / 2


def to_difference(unit: Any) -> Any:
    """The difference that `to_unit` made an observation of."""
    return 2 * unit - 1


@dataclass(kw_only=True)
class _Test:
    """What all tests share: how many observations they have seen, and a state to store.

    A state is JSON, holds the parameters too, and what follows is the same to the last bit as without a restart.
    """

    count: int = 0

    def state(self) -> dict[str, Any]:
        """Everything that the test knows, as plain numbers and lists."""
        return {entry.name: np.asarray(getattr(self, entry.name)).tolist() for entry in fields(self)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The test that `state` was taken from. Raises TypeError for the state of another kind of test."""
        known: dict[str, Any] = {
            name: np.asarray(value) if isinstance(value, list) else value for name, value in state.items()
        }
        return cls(**known)


@dataclass(kw_only=True)
class _Moments(_Test):
    """The mean and variance so far, as if there had been one more observation, 1/2, at a squared distance of 1/4."""

    total: Any = 0.0
    squares: Any = 0.0

    @property
    def estimate(self) -> Any:
        return (0.5 + self.total) / (self.count + 1)

    @property
    def variance(self) -> Any:
        return (0.25 + self.squares) / (self.count + 1)

    def _learn(self, x: Any) -> None:
        self.count += 1
        self.total = self.total + x
        self.squares = self.squares + (x - self.estimate) ** 2


@dataclass
class BettingTest(_Moments):
    """Evidence against 'the mean is at most `null_mean`': the wealth of one who bets on more than that.

    For the other side test ``1 - x`` against ``1 - null_mean``.

    Attributes:
        null_mean: in (0, 1).
        alpha: the probability of ever rejecting what is true.
        log_wealth: the evidence now (nats); its exponential is an e-value.
        peak: the largest evidence so far (nats).
    """

    null_mean: float
    alpha: float = 0.05
    log_wealth: Any = field(default=0.0, kw_only=True)
    peak: Any = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        _require_inside("null_mean", self.null_mean)
        _require_inside("alpha", self.alpha)

    def update(self, x: Any) -> None:
        """Take the next observation. Raises ValueError outside [0, 1]."""
        _require_unit(x)
        edge = self.estimate - self.null_mean
        bet = _clip(edge / (self.variance + edge**2), 0.0, 0.5 / self.null_mean)
        self.log_wealth = self.log_wealth + _log1p(bet * (x - self.null_mean))
        self.peak = _clip(self.log_wealth, self.peak, math.inf)
        self._learn(x)

    @property
    def rejected(self) -> Any:
        """Whether the evidence was ever enough; it stays so."""
        return self.peak >= -math.log(self.alpha)

    @property
    def p_value(self) -> Any:
        """A p-value that holds at every look: 1 over the largest wealth."""
        return np.exp(-self.peak)


@dataclass
class RiseTest(_Test):
    """Evidence that the mean is above `null_mean` since some moment, which need not be the first.

    It is a mixture of bets that begin at each observation: the t-th has the weight 1 / (t (t + 1)), and all weights are
    1 together. Under 'the mean is at most `null_mean`' each is a fair game at best, and so is the mixture: it ever
    reaches 1 / alpha with probability alpha at most. What `BettingTest` must first unlearn, this one never learned: a
    thousand good observations cost it the evidence of a few bad ones.

    Attributes:
        SHARES: the bets, as shares of the largest that is allowed, 1 / null_mean.
        null_mean: in (0, 1).
        alpha: the probability of ever rejecting what is true.
        logs: the evidence of each bet, over the beginnings so far (nats).
        peak: the largest evidence so far (nats).
    """

    SHARES: ClassVar[Any] = np.array([1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2])

    null_mean: float
    alpha: float = 0.05
    logs: Any = field(default_factory=lambda: np.zeros(1), kw_only=True)
    peak: Any = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        _require_inside("null_mean", self.null_mean)
        _require_inside("alpha", self.alpha)

    def update(self, x: Any) -> None:
        """Take the next observation. Raises ValueError outside [0, 1]."""
        _require_unit(x)
        begins = -math.log((self.count + 1) * (self.count + 2))
        before = np.logaddexp(self.logs, begins) if self.count else begins
        self.logs = before + np.log1p(self.SHARES / self.null_mean * np.expand_dims(x - self.null_mean, -1))
        self.count += 1
        self.peak = _clip(self.log_evidence, self.peak, math.inf)

    @property
    def log_evidence(self) -> Any:
        """The mean of the bets' evidence (nats), with that of the beginnings to come, which is their weight."""
        if not self.count:
            return 0.0
        whole = np.logaddexp(self.logs, -math.log(self.count + 1))
        return np.logaddexp.reduce(whole, axis=-1) - math.log(whole.shape[-1])

    @property
    def rejected(self) -> Any:
        """Whether the evidence was ever enough; it stays so."""
        return self.peak >= -math.log(self.alpha)


@dataclass
class ConfidenceSequence(_Moments):
    """Intervals that hold the mean all at once with probability 1 - alpha: the empirical-Bernstein ones.

    They are not intersected over time: so each is right about the weighted mean of what was to be expected of the
    observations so far, also where that changes, and moves with it.

    Attributes:
        alpha: the probability that any of the intervals fails.
        weight: the sum of the observations' weights.
        weighted: the weighted sum of the observations.
        spread: the weighted sum of their squared distances from what was predicted.
    """

    alpha: float = 0.05
    weight: Any = field(default=0.0, kw_only=True)
    weighted: Any = field(default=0.0, kw_only=True)
    spread: Any = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        _require_inside("alpha", self.alpha)

    def update(self, x: Any) -> None:
        """Take the next observation. Raises ValueError outside [0, 1]."""
        _require_unit(x)
        t = self.count + 1
        bet = (2 * math.log(2 / self.alpha) / (self.variance * t * math.log(1 + t))) ** 0.5
        bet = _clip(bet, 0.0, 0.5)
        self.weight = self.weight + bet
        self.weighted = self.weighted + bet * x
        self.spread = self.spread + (x - self.estimate) ** 2 * (-_log1p(-bet) - bet)
        self._learn(x)

    @property
    def mean(self) -> Any:
        """The middle of the interval, a weighted mean; 1/2 without observations."""
        return self.weighted / self.weight if self.count else 0.5

    @property
    def low(self) -> Any:
        """The interval's lower end, at least 0."""
        return _clip(self.mean - self._half_width(), 0.0, 1.0)

    @property
    def high(self) -> Any:
        """The interval's upper end, at most 1."""
        return _clip(self.mean + self._half_width(), 0.0, 1.0)

    def _half_width(self) -> Any:
        return (math.log(2 / self.alpha) + self.spread) / self.weight if self.count else 0.5


@dataclass
class ECusum(_Test):
    """Watches for a fall of a mean below `level`; evidence that is gone does not count against a later fall.

    It is the mean of one e-CUSUM for each bet, so that nobody need guess how far the mean will fall: small bets find
    small falls, large ones find large falls soon.

    Attributes:
        SHARES: the bets, as shares of the largest that is allowed, 1 / (1 - level).
        level: what the mean is as long as all is well, at least; in (0, 1). An array has one for each run.
        alarm_every: the least mean number of observations until a false alarm (the paper's 1 / alpha).
        logs: the evidence of each bet (nats).
        peak: the largest evidence so far (nats).
    """

    SHARES: ClassVar[Any] = np.array([1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2])

    level: Any
    alarm_every: float
    logs: Any = field(default_factory=lambda: np.zeros(1), kw_only=True)
    peak: Any = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        _require_inside("level", self.level)
        if not 1 < self.alarm_every < math.inf:
            raise ValueError(f"alarm_every must be a number above 1, not {self.alarm_every!r}")

    def update(self, x: Any) -> None:
        """Take the next observation. Raises ValueError outside [0, 1]."""
        _require_unit(x)
        bets = self.SHARES / np.expand_dims(1 - self.level, -1)
        self.logs = np.maximum(self.logs, 0.0) + np.log1p(bets * np.expand_dims(self.level - x, -1))
        self.peak = _clip(self.log_evidence, self.peak, math.inf)
        self.count += 1

    @property
    def log_evidence(self) -> Any:
        """The mean of the bets' evidence (nats); where it is 0 or less, nothing points at a fall."""
        return np.logaddexp.reduce(self.logs, axis=-1) - math.log(self.logs.shape[-1])

    @property
    def ratio(self) -> Any:
        """The evidence as a share of what raises an alarm, both in nats; 1 raises it."""
        return self.log_evidence / math.log(self.alarm_every)

    @property
    def alarm(self) -> Any:
        """Whether the evidence was ever enough; it stays so until somebody begins a new watch."""
        return self.peak >= math.log(self.alarm_every)


def _clip(x: Any, low: Any, high: Any) -> Any:
    return np.clip(x, low, high) if isinstance(x, np.ndarray) else min(max(x, low), high)


def _log1p(x: Any) -> Any:
    return np.log1p(x) if isinstance(x, np.ndarray) else math.log1p(x)


def _require_inside(name: str, value: Any) -> None:
    if not np.all((value > 0) & (value < 1)):
        raise ValueError(f"{name} must lie between 0 and 1, both excluded, not {value!r}")


def _require_unit(x: Any) -> None:
    inside = (x >= 0) & (x <= 1)
    if not (inside.all() if isinstance(inside, np.ndarray) else inside):
        raise ValueError(f"an observation must lie in [0, 1] (a difference in [-1, 1]), not {x!r}")
