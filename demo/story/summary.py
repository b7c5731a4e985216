"""What came of the story, in numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from demo.story.ledger import Answered, Ledger, Mean, mean_of
from demo.story.plan import Plan
from demo.story.watching import Watcher

__all__ = ["MOST_LOST", "Summary", "summarize"]

MOST_LOST = 0.05
"""By so much quality may be lower in the end than before the shift, for it to have come back."""


@dataclass(frozen=True)
class Summary:
    """The story's figures; times are seconds.

    Attributes:
        requests, failed: of all clients, feedback included.
        before: quality before the shift, by the version that served then.
        fallen: quality after the shift and before the promotion, by that version.
        after: quality after the promotion, by the new version: of the plan's number of answers, the first ones.
        to_alarm, to_training, to_candidate, to_canary, to_promotion: from the first shifted request.
        meanwhile: requests that were answered between the first shifted one and the promotion.
        wrong_meanwhile: those of them with a wrong field.
        bad: quality of the bad version's answers; None if nobody got one.
        to_rollback: from when it was forced into canary.
        versions: the one before, the new one, the bad one.
        gate: the gate's report, as the API has it.
        drift, drift_before: the drift report that went with the training job, and the one before the shift.
    """

    requests: int
    failed: int
    before: Mean
    fallen: Mean
    after: Mean
    to_alarm: float
    to_training: float
    to_candidate: float
    to_canary: float
    to_promotion: float
    meanwhile: int
    wrong_meanwhile: int
    bad: Mean | None
    to_rollback: float
    versions: tuple[int, int, int]
    seconds: float
    gate: Any
    drift: Any
    drift_before: Any

    @property
    def lost(self) -> float:
        """By how much quality is below what it was before the shift."""
        return self.before.mean - self.after.mean

    @property
    def came_back(self) -> bool:
        """Whether quality is what it was before the shift, but for `MOST_LOST`."""
        return self.lost <= MOST_LOST

    def lines(self) -> list[tuple[str, str]]:
        """It in words: what, and how much."""
        old, new, bad = self.versions
        return [
            ("quality before the shift", f"{_mean(self.before)} by version {old}"),
            ("quality after the shift", f"{_mean(self.fallen)} by version {old}"),
            ("quality after the promotion", f"{_mean(self.after)} by version {new}"),
            ("from the first shifted request to the alarm", _span(self.to_alarm)),
            ("to the beginning of the training", _span(self.to_training)),
            ("to a version that its gate let through", _span(self.to_candidate)),
            ("to the promotion", _span(self.to_promotion)),
            ("requests meanwhile", f"{self.meanwhile}, {self.wrong_meanwhile} of them with a wrong field"),
            (f"the bad version {bad} was rolled back after", _span(self.to_rollback)),
            ("quality of what it had answered by then", "-" if self.bad is None else _mean(self.bad)),
            ("requests in all", f"{self.requests}, {self.failed} failed"),
            ("the whole story", _span(self.seconds)),
        ]


def summarize(plan: Plan, ledger: Ledger, watcher: Watcher, found: dict[str, Any]) -> Summary:
    """The figures of a story that is over."""
    shift, promoted = _at(watcher, "shift"), _at(watcher, "promoted")
    old, new, bad = _stable_at(watcher, shift), int(found["version"]), _bad_version(watcher)
    before = [each for each in ledger.answers if each.world == "before"]
    shifted = [each for each in ledger.answers if each.world == "shifted"]
    meanwhile = [each for each in shifted if each.at < promoted]
    after = [each for each in shifted if each.at >= promoted and _is(each, new, "stable")]
    bad_answers = [each for each in shifted if each.version == bad]
    return Summary(
        requests=ledger.requests,
        failed=len(ledger.failures),
        before=mean_of(before),
        fallen=mean_of([each for each in meanwhile if each.version == old]),
        after=mean_of(after[: plan.after]),
        to_alarm=_at(watcher, "alarm") - shift,
        to_training=_at(watcher, "retrain") - shift,
        to_candidate=_at(watcher, "succeeded") - shift,
        to_canary=_at(watcher, "canary") - shift,
        to_promotion=promoted - shift,
        meanwhile=len(meanwhile),
        wrong_meanwhile=sum(each.quality < 1 for each in meanwhile),
        bad=mean_of(bad_answers) if bad_answers else None,
        to_rollback=_at(watcher, "rolled back") - _at(watcher, "forced"),
        versions=(old, new, bad),
        seconds=watcher.now(),
        gate=found["gate"],
        drift=found["drift"],
        drift_before=found["drift_before"],
    )


def _at(watcher: Watcher, milestone: str) -> float:
    at = watcher.reached(milestone)
    assert at is not None, f"a story that is over has the milestone {milestone}"
    return at


def _is(answered: Answered, version: int, variant: str) -> bool:
    return (answered.version, answered.variant) == (version, variant)


def _stable_at(watcher: Watcher, moment: float) -> int:
    return next(live.stable for at, live in reversed(watcher.lives) if at <= moment)


def _bad_version(watcher: Watcher) -> int:
    forced = _at(watcher, "forced")
    canaries: Sequence[int] = [live.canary for at, live in watcher.lives if at >= forced and live.canary is not None]
    return canaries[0]


def _mean(mean: Mean) -> str:
    return f"{mean.mean:.3f} ({mean.low:.3f} to {mean.high:.3f}, {mean.n} answers)"


def _span(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min ({seconds:.0f} s)"
