"""The loop's decisions over simulated traffic: how often it retrains, takes back and promotes what it should not.

``python -m benchmarks.loop`` takes some minutes and writes ``benchmarks/results/loop.md``. All numbers are drawn with
one seed. Scores go, in arrays of independent runs, through the tests that the monitor uses, and `decide` and `after` of
`monitors.loop` decide for each run alone. Beside them stands the rule that one writes first: a mean of the last
sessions, held against a threshold.
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from msgspec import structs
from scipy.stats import binomtest

from monitors.judging.sequential import ECusum
from monitors.loop.decide import decide
from monitors.loop.evidence import Beside, Limit
from monitors.loop.failures import Failures
from monitors.loop.seen import Comparison, JobSeen, Labels, Quality, Seen
from monitors.loop.state import LoopState
from monitors.loop.transitions import after
from registry.catalog import Canary, Deployment
from registry.monitoring import QualityRule
from registry.policies import Policy, RetrainRule, RolloutRule

RESULTS = Path(__file__).parent / "results" / "loop.md"
SEED = 20_261_121
RUNS, SESSIONS = 200, 50_000  # every session is a scored one
ROLLOUTS = 600
GUARD_REQUESTS = 5_000
LOOK_EVERY, LATER_EVERY, LATER = 50, 200, 400  # pairs; and whenever a test has established something
WINDOW = 200  # of the naive rule
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
BETWEEN = timedelta(seconds=6)  # from one scored session to the next
NEVER = -1

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Traffic:
    """How sessions are scored: as right or wrong, or by degrees."""

    name: str
    mean: float
    graded: bool = False

    def draw(self, rng: np.random.Generator, runs: int, shift: float = 0.0) -> Floats:
        """One score for each run."""
        mean = self.mean + shift
        if self.graded:
            return rng.beta(mean * 8, (1 - mean) * 8, runs)
        return (rng.random(runs) < mean).astype(float)


KINDS = (
    Traffic("right or wrong, mean 0.6", 0.6),
    Traffic("right or wrong, mean 0.9", 0.9),
    Traffic("graded, mean 0.8", 0.8, graded=True),
)


class Watches:
    """`monitors.judging.evidence.Watch` of many runs at once: the level from the first sessions, then the e-CUSUM."""

    def __init__(self, rule: QualityRule, runs: int) -> None:
        self.rule = rule
        self.gathered, self.total = 0, np.zeros(runs)
        self.level: Any = None
        self.alarms: Ints = np.zeros(runs, np.int64)
        if rule.level is not None:
            self._expect(np.full(runs, rule.level))

    def update(self, scores: Floats) -> Ints:
        """Take one score for each run; the runs whose evidence of a fall is complete, and begins anew."""
        if self.level is None:
            self.gathered, self.total = self.gathered + 1, self.total + scores
            if self.gathered >= self.rule.level_observations:
                self._expect(self.total / self.gathered)
            return np.empty(0, np.int64)
        self._cusum.update(scores)
        alarmed = np.flatnonzero(self._cusum.alarm)
        if alarmed.size:
            self.alarms[alarmed] += 1
            self._cusum.logs[alarmed], self._cusum.peak[alarmed] = 0.0, 0.0
        return alarmed

    def _expect(self, level: Floats) -> None:
        self.level = level
        self._cusum = ECusum(np.minimum(level - self.rule.drop, 1 - 1e-6), self.rule.alarm_every)


def quality(rule: QualityRule, watches: Watches, run: int, sessions: int) -> Quality:
    """What the monitor would read of one run's watch."""
    level = None if watches.level is None else float(watches.level[run])
    alarms = int(watches.alarms[run])
    return Quality(1, rule.scorer, sessions, level, level, alarm=alarms > 0, alarms=alarms)


@dataclass(frozen=True)
class Watched:
    """What the watch did in each run: how often it trained, and after how many sessions first (`NEVER` without)."""

    loop: Ints
    naive: Ints
    first: Ints
    naive_first: Ints


def watch(
    rng: np.random.Generator, kind: Traffic, rule: QualityRule, runs: int, sessions: int, shift: float = 0.0
) -> Watched:
    """Let nothing change, have labels and time for a training always, and let the gate refuse what each makes.

    With `shift` the sessions after the first `WINDOW` are other than `kind` says, and it ends once all runs trained.
    """
    policy = Policy("act", rule, RetrainRule(cool_down_h=0.0))
    watches, naive = Watches(rule, runs), _NaiveWatch(rule, runs)
    states, trained = [LoopState() for _ in range(runs)], np.zeros(runs, np.int64)
    first, naive_first = np.full(runs, NEVER), np.full(runs, NEVER)
    for session in range(1, sessions + 1):
        scores = kind.draw(rng, runs, shift if session > WINDOW else 0.0)
        alarmed = watches.update(scores)
        naive.update(scores)
        for run in range(runs) if session % 1_000 == 0 else alarmed.tolist():
            seen = Seen(
                now=BEGAN + session * BETWEEN,
                deployment=Deployment(1, 1),
                changed_by="somebody",
                quality=quality(rule, watches, run, session),
                labels=Labels(rows=10**6, found=10**6, agreed=True),
            )
            states[run], begun = _train(seen, states[run], policy)
            trained[run] += begun
        first[(trained > 0) & (first == NEVER)] = session
        naive_first[(naive.trained > 0) & (naive_first == NEVER)] = session
        if shift and (np.minimum(first, naive_first) != NEVER).all():
            break
    return Watched(trained, naive.trained, first, naive_first)


def _train(seen: Seen, state: LoopState, policy: Policy) -> tuple[LoopState, int]:
    """Decide; a training ends at once, and the gate refuses what it made."""
    verdict = decide(seen, state, policy)
    state = after(state, verdict, seen)
    if verdict.act != "retrain":
        return state, 0
    refused = replace(seen, job=JobSeen("job", "rejected", 2, ended_at=seen.now))
    return after(state, decide(refused, state, policy), refused), 1


class _NaiveWatch:
    """Retrains when the mean of the last 200 sessions lies below the level minus the drop; then waits for 200 new."""

    def __init__(self, rule: QualityRule, runs: int) -> None:
        self.rule, self.trained = rule, np.zeros(runs, np.int64)
        self._window: Floats = np.zeros((WINDOW, runs))
        self._sum = np.zeros(runs)
        self._seen, self._since = 0, np.zeros(runs, np.int64)
        self._level: Any = rule.level

    def update(self, scores: Floats) -> None:
        """Take one score for each run."""
        slot = self._seen % WINDOW
        self._sum += scores - self._window[slot]
        self._window[slot] = scores
        self._seen, self._since = self._seen + 1, self._since + 1
        if self._level is None:
            if self._seen == WINDOW:
                self._level, self._since = self._sum / WINDOW, np.zeros_like(self._since)
            return
        fell = (self._since >= WINDOW) & (self._sum / WINDOW < self._level - self.rule.drop)
        self.trained += fell
        self._since[fell] = 0


@dataclass(frozen=True)
class Trial:
    """What new versions are like: how much better than the stable one, and than the base model (None: not looked at).

    Attributes:
        beside_stable, beside_base: differences of the mean score.
    """

    beside_stable: float
    beside_base: float | None = None


@dataclass(frozen=True)
class Ends:
    """How rollouts ended: an outcome each, and the scored sessions that it took, of all of the adapter's.

    `promoted_at` is the session of the promotion, `NEVER` without one; `naive` is whether the naive rule promotes.
    """

    outcomes: Sequence[str]
    ended_at: Ints
    promoted_at: Ints
    naive: npt.NDArray[np.bool_]


@dataclass
class _Arm:
    """One rollout: where the loop is with it, what serves, and how many scored sessions there were since it began."""

    state: LoopState
    deployment: Deployment
    sessions: int = 0
    promoted_at: int = NEVER
    ended_at: int = NEVER
    outcome: str = "under_way"

    @property
    def now(self) -> datetime:
        return BEGAN + self.sessions * BETWEEN

    @property
    def share(self) -> float:
        """The share of the sessions that the smaller arm gets: so fast do pairs come."""
        weight = 0.0 if self.deployment.canary is None else self.deployment.canary.weight
        return min(weight, 1 - weight)


def roll_out(
    rng: np.random.Generator, kind: Traffic, trial: Trial, policy: Policy, rollouts: int, sessions: int
) -> Ends:
    """Take new versions, all alike, through the loop until each rollout is over, or so many scored sessions came."""
    arms = [_begin(policy) for _ in range(rollouts)]
    tests = _Tests.begin(trial, policy)
    running, naive, pair = np.arange(rollouts), np.zeros(rollouts), 0
    counted, share = np.zeros(rollouts, np.int64), np.full(rollouts, policy.rollout.steps[0])
    established = np.zeros(rollouts, np.int64)
    while running.size:
        pair += 1
        difference = tests.update(rng, kind, trial, running.size)
        if pair <= WINDOW:
            naive[running] += difference
        counted += rng.geometric(share)
        flags = tests.flags(running.size)
        at_look = pair % (LOOK_EVERY if pair < LATER else LATER_EVERY) == 0
        due = np.arange(running.size) if at_look else np.flatnonzero(flags != established)
        established = flags
        for place in due.tolist():
            arm = arms[running[place]]
            arm.sessions = int(counted[place])
            _decide(arm, Seen(arm.now, arm.deployment, comparison=tests.comparison(place)), policy)
            share[place] = arm.share
        open_ones = np.array([arms[run].ended_at == NEVER for run in running]) & (counted < sessions)
        if due.size and not open_ones.all():
            running, counted, share, established = (x[open_ones] for x in (running, counted, share, established))
            tests = kept(tests, open_ones)
    return Ends(
        [arm.outcome for arm in arms],
        np.array([arm.ended_at for arm in arms]),
        np.array([arm.promoted_at for arm in arms]),
        naive >= 0,
    )


@dataclass
class _Tests:
    """The tests of many rollouts, all fed the k-th pair together; the base model's are None if it is not looked at."""

    incumbent: Beside
    base: Beside | None
    errors: Failures
    latency: Limit
    ratio: float
    others: np.random.Generator

    @classmethod
    def begin(cls, trial: Trial, policy: Policy) -> Self:
        """Without observations."""
        quality, rule = policy.quality, policy.rollout
        assert rule.errors is not None
        assert rule.latency_ratio is not None
        return cls(
            Beside.begin(drop=quality.drop, alpha=quality.alpha),
            None if trial.beside_base is None else Beside.begin(drop=quality.drop, alpha=quality.alpha),
            Failures.begin(most=rule.errors, alpha=rule.guard_alpha),
            Limit.begin(most=0.5, alpha=rule.guard_alpha),
            rule.latency_ratio,
            np.random.default_rng(SEED),
        )

    def update(self, rng: np.random.Generator, kind: Traffic, trial: Trial, runs: int) -> Floats:
        """One pair, one answer of the base model, and one request, for each; 1 in 100 fails. The pairs' differences."""
        new = kind.draw(rng, runs, trial.beside_stable)
        difference = new - kind.draw(rng, runs)
        self.incumbent.update(difference)
        if self.base is not None and trial.beside_base is not None:
            self.base.update(new - kind.draw(rng, runs, trial.beside_stable - trial.beside_base))
        self.errors.take("old", failed=self.others.random(runs) < 0.01)
        self.errors.take("new", failed=rng.random(runs) < 0.01)
        times = np.exp(0.5 * (rng.standard_normal(runs) - rng.standard_normal(runs)))
        self.latency.update((times > self.ratio).astype(float))
        return difference

    def flags(self, runs: int) -> Ints:
        """A number for each rollout that changes when any test establishes anything."""
        found: list[Any] = [
            self.incumbent.worse.rejected,
            self.incumbent.not_worse.rejected,
            self.errors.rejected,
            self.latency.over.rejected,
            False if self.base is None else self.base.worse.rejected,
        ]
        return sum((each * np.ones(runs, np.int64) for each in found), np.zeros(runs, np.int64))

    def comparison(self, place: int) -> Comparison:
        """What the monitor would see of one of them."""
        one = kept(self, place)
        base = None if one.base is None else one.base.held()
        return Comparison(one.incumbent.held(), base, one.errors.held(), one.latency.held())


def kept(tests: Any, places: Any) -> Any:
    """These runs' tests out of tests that were fed arrays; of one run as numbers. One that was fed nothing stays."""
    if isinstance(tests, np.ndarray):
        return tests[places] if np.ndim(tests[places]) else float(tests[places])
    if not is_dataclass(tests) or getattr(tests, "count", 1) == 0:
        return tests
    kind: Any = type(tests)
    return kind(**{entry.name: kept(getattr(tests, entry.name), places) for entry in fields(tests)})


def _begin(policy: Policy) -> _Arm:
    arm = _Arm(LoopState("tuning", 1, revision=1, job="job"), Deployment(1, 1))
    job = JobSeen("job", "succeeded", 2, ended_at=BEGAN)
    _decide(arm, Seen(BEGAN, arm.deployment, job=job), policy)
    return arm


def _decide(arm: _Arm, seen: Seen, policy: Policy) -> None:
    """Decide, and do to the deployment what the controller would."""
    verdict = decide(seen, arm.state, policy)
    arm.state = after(arm.state, verdict, seen)
    deployment = _carried_out(arm.deployment, verdict.act, verdict.version, verdict.weight)
    if deployment is not arm.deployment:
        arm.deployment = deployment
        arm.state = structs.replace(arm.state, revision=deployment.revision)
    if verdict.act == "promote":
        arm.promoted_at = arm.sessions
    if verdict.act in ("roll_back", "end_holdback"):
        arm.ended_at, arm.outcome = arm.sessions, verdict.outcome


def _carried_out(deployment: Deployment, act: str, version: int, weight: float | None) -> Deployment:
    revision = deployment.revision + 1
    match act:
        case "begin_rollout" | "next_step":
            assert weight is not None
            return Deployment(revision, deployment.stable, Canary(version, weight))
        case "promote":
            assert weight is not None
            return Deployment(revision, version, Canary(deployment.stable, weight, holdback=True))
        case "roll_back" | "end_holdback":
            return Deployment(revision, deployment.stable if act == "end_holdback" else 1)
    return deployment


@dataclass(frozen=True)
class Guarded:
    """What a limit's test said of many runs: which of them it took for over the limit, and after how many requests."""

    over: npt.NDArray[np.bool_]
    after: Ints


def guard(
    rng: np.random.Generator, most: float, rate: float, alpha: float, runs: int, requests: int, good: int = 0
) -> Guarded:
    """Feed requests of which a share of `rate` fails, or is slow, where `most` may, after `good` ones."""
    test, first = Limit.begin(most=most, alpha=alpha), np.full(runs, NEVER)
    for _ in range(good):
        test.update(np.zeros(runs))
    for request in range(1, requests + 1):
        test.update((rng.random(runs) < rate).astype(float))
        over: Any = test.over.rejected
        first[over & (first == NEVER)] = request
        if (first != NEVER).all():
            break
    return Guarded(first != NEVER, first)


@dataclass(frozen=True)
class Failing:
    """How the requests of two versions fail.

    Attributes:
        share: of the requests that are the new version's.
        rate: how often it fails by itself, after `good` requests in which it never does.
        outages: whether all fails, of both, in 60 of each 1,000 requests.
    """

    share: float
    rate: float
    good: int = 0
    outages: bool = False


def fail(rng: np.random.Generator, case: Failing, most: float, alpha: float, runs: int, requests: int) -> Guarded:
    """Feed requests of both versions; those of the new one are counted from the moment on at which it fails."""
    limit, first, count = Failures.begin(most=most, alpha=alpha), np.full(runs, NEVER), 0
    for request in range(case.good + requests):
        is_new, is_down = rng.random() < case.share, case.outages and request % 1_000 >= 940
        own = case.rate if is_new and request >= case.good else 0.0
        limit.take("new" if is_new else "old", failed=(rng.random(runs) < own) | is_down)
        count += is_new and request >= case.good
        over: Any = limit.rejected
        first[over & (first == NEVER)] = count
        if (first != NEVER).all():
            break
    return Guarded(first != NEVER, first)


def false_trainings(rng: np.random.Generator, runs: int, sessions: int) -> list[str]:
    """How many trainings begin in each run though nothing changes."""
    cells = ("scores", "level", "asked for between two, at least", "allowed", "the loop", "naive rule")
    lines = _header(*cells)
    for kind in KINDS:
        for told, level in (("from 200 sessions", None), ("the least drop above the mean", kind.mean + 0.05)):
            for every in (1_000, 10_000):
                found = watch(rng, kind, QualityRule(level=level, alarm_every=every), runs, sessions)
                allowed = f"{sessions / every:g}"
                lines.append(_row(kind.name, told, f"{every:,}", allowed, _mean(found.loop), _mean(found.naive)))
    return lines


def falls(rng: np.random.Generator, runs: int) -> list[str]:
    """After how many sessions a training begins, once quality fell; in runs without one before."""
    shifts = (0.1, 0.2, 0.4)
    lines = _header("scores", "rule", *(f"fall of {shift:g}" for shift in shifts))
    for kind in KINDS:
        rule = QualityRule(level=kind.mean)
        found = [watch(rng, kind, rule, runs, 4_000, -shift) for shift in shifts]
        lines.append(_row(kind.name, "the loop", *(_median(_since_the_fall(each.first)) for each in found)))
        lines.append(_row(kind.name, "naive", *(_median(_since_the_fall(each.naive_first)) for each in found)))
    return lines


def _since_the_fall(first: Ints) -> Ints:
    return np.where(first > WINDOW, first - WINDOW, NEVER)


TRIALS = (
    ("as good, and so is the base model", Trial(0.0, 0.0)),
    ("as good", Trial(0.0)),
    ("better by 0.05", Trial(0.05)),
    ("worse by 0.05, the least drop", Trial(-0.05)),
    ("worse by 0.1", Trial(-0.1)),
    ("worse by 0.2", Trial(-0.2)),
)
POLICY = Policy("act", QualityRule(), rollout=RolloutRule(longest_h=72.0, holdback_h=4.0))


def rollouts(rng: np.random.Generator, count: int, sessions: int) -> list[str]:
    """What becomes of new versions that are better or worse by so much."""
    lines = _header(
        "scores", "the new version is", "taken back as worse", "undecided", "promoted", "scored sessions until then",
        "the naive rule promotes",
    )  # fmt: skip
    for kind in KINDS:
        for told, trial in TRIALS:
            ends = roll_out(rng, kind, trial, POLICY, count, sessions)
            outcomes = Counter(ends.outcomes)
            worse = sum(number for outcome, number in outcomes.items() if outcome in BAD)
            promoted = int((ends.promoted_at != NEVER).sum())
            undecided = outcomes["undecided"] + int(((ends.ended_at == NEVER) & (ends.promoted_at == NEVER)).sum())
            decided = np.where(ends.promoted_at == NEVER, ends.ended_at, ends.promoted_at)
            lines.append(
                _row(
                    kind.name,
                    told,
                    _share(worse, count),
                    f"{undecided / count:.1%}",
                    _share(promoted, count),
                    _median(decided),
                    f"{ends.naive.mean():.1%}",
                )
            )
    return lines


BAD = frozenset({"worse_than_stable", "worse_than_base", "errors", "latency", "cost"})


def guards(rng: np.random.Generator, runs: int, requests: int) -> list[str]:
    """How often each limit stops a version, and how soon."""
    lines = _header("limit", "the new version", "stopped", "requests until then")
    slow, failing, alpha = "2 times as slow", "5% of requests fail", POLICY.rollout.guard_alpha
    own = (
        ("fails in 1%", Failing(0.25, 0.01)),
        ("in 5%, the limit", Failing(0.25, 0.05)),
        ("in 5%, and with the other one in outages", Failing(0.25, 0.05, outages=True)),
        ("in none, but in outages", Failing(0.25, 0.0, outages=True)),
        ("in 30%", Failing(0.25, 0.3)),
        ("in none of 10,000, then in 30%", Failing(0.25, 0.3, 10_000)),
        ("in none of 10,000, then in all, with 5% of the requests", Failing(0.05, 1.0, 10_000)),
        ("the same, with 25%", Failing(0.25, 1.0, 10_000)),
        ("with 50%", Failing(0.5, 1.0, 10_000)),
        ("with 95%: the other one is held back", Failing(0.95, 1.0, 10_000)),
        ("with 100%: it is alone", Failing(1.0, 1.0, 10_000)),
        ("with 95%, in none, but in outages", Failing(0.95, 0.0, outages=True)),
    )
    for told, case in own:
        found = fail(rng, case, 0.05, alpha, runs, requests)
        lines.append(_row(failing, told, _share(int(found.over.sum()), runs), _median(found.after)))
    for told, rate in (("is as fast", 0.163), ("2 times as slow, the limit", 0.5), ("3 times as slow", 0.717)):
        found = guard(rng, 0.5, rate, alpha, runs, requests)
        lines.append(_row(slow, told, _share(int(found.over.sum()), runs), _median(found.after)))
    return lines


PARTS: dict[str, tuple[str, Callable[[np.random.Generator], list[str]]]] = {
    "trainings": (
        f"## Trainings without a change: {RUNS} runs of {SESSIONS:,} scored sessions, per run",
        lambda rng: false_trainings(rng, RUNS, SESSIONS),
    ),
    "falls": (
        f"## Scored sessions from a fall to the training: median of {RUNS} runs, 10,000 asked for between false alarms",
        lambda rng: falls(rng, RUNS),
    ),
    "rollouts": (
        f"## Rollouts: {ROLLOUTS:,} of at most {SESSIONS:,} scored sessions each, alpha {POLICY.quality.alpha:g}",
        lambda rng: rollouts(rng, ROLLOUTS, SESSIONS),
    ),
    "limits": (
        f"## Limits: {ROLLOUTS:,} runs of {GUARD_REQUESTS:,} requests, each at {POLICY.rollout.guard_alpha:g}",
        lambda rng: guards(rng, ROLLOUTS, GUARD_REQUESTS),
    ),
}
"""Each is drawn with the seed from its beginning, so that one can be made again without the others."""


def main() -> None:
    """Run everything and write the results; or print the parts that are named."""
    named = sys.argv[1:]
    parts = []
    for title, make in (PARTS[name] for name in named or PARTS):
        parts += [title, *make(np.random.default_rng(SEED))]
    if named:
        sys.stdout.write(_page(parts))
        return
    head = "Made by `python -m benchmarks.loop`; what the numbers mean is told in `docs/loop-simulation.md`."
    RESULTS.write_text(_page(["# The loop's decisions, simulated", head, *parts]))


def _share(number: int, of: int) -> str:
    interval = binomtest(number, of).proportion_ci(0.95, method="exact")
    return f"{number / of:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def _mean(trained: Ints) -> str:
    return f"{trained.mean():.3g}"


def _median(at: Ints) -> str:
    """Of those that came to it at all; how many, where not all did."""
    came = at[at != NEVER]
    if not came.size:
        return "never"
    some = "" if came.size == at.size else f" (of {came.size / at.size:.0%})"
    return f"{np.median(came):,.0f}{some}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _header(*cells: str) -> list[str]:
    return [_row(*cells), _row(*("---" for _ in cells))]


def _page(parts: Sequence[str]) -> str:
    """Join lines of tables closely, and everything else with an empty line between."""
    page = ""
    for part in parts:
        page += "" if not page else "\n" if part.startswith("|") and page.endswith("|") else "\n\n"
        page += part
    return page + "\n"


if __name__ == "__main__":
    main()
