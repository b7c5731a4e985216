"""What a decision is made from: everything that was read, as one immutable value of one moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from registry.catalog import Deployment

JobEnd = Literal["open", "succeeded", "rejected", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Quality:
    """What the watch over the stable version says.

    Attributes:
        version: the stable version.
        scorer: whose scores are watched.
        observations: sessions so far.
        level: the expected mean score; None until it is known.
        recent: the mean of the newest sessions.
        low, high: the interval of the mean over all sessions.
        ratio: the evidence of a fall, 0 to 1; 1 raises the alarm.
        alarm: whether it was raised.
        alarms: how often it would have been, had the evidence begun anew after each.
        observed_at: when the newest session was scored; None if that is not known.
    """

    version: int
    scorer: str
    observations: int = 0
    level: float | None = None
    recent: float | None = None
    low: float = 0.0
    high: float = 1.0
    ratio: float = 0.0
    alarm: bool = False
    alarms: int = 0
    observed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Labels:
    """The labelled rows since the last training.

    Attributes:
        rows: that a dataset would have, after the cap of each key.
        found: before the cap.
        by_source: of `rows`.
        heaviest_key: the id of the key that sent most of what was found.
        heaviest_share: its share of that.
        agreed: whether quality was lost in the eyes of the others too, if any one key that is not trusted is left out.
        lone_voice: a key without which it was not.
        without_prompt: labels that cannot be used, for their prompt was not captured or is no longer kept.
        unusable: labels whose prompt or answer is nothing to train on.
        contradicted: labels that others contradict.
        repeated: labels that say what another one says.
    """

    rows: int = 0
    found: int = 0
    by_source: Mapping[str, int] = field(default_factory=dict)
    heaviest_key: str | None = None
    heaviest_share: float = 0.0
    agreed: bool = False
    lone_voice: str | None = None
    without_prompt: int = 0
    unusable: int = 0
    contradicted: int = 0
    repeated: int = 0


@dataclass(frozen=True, slots=True)
class JobSeen:
    """The tuning job under way, or another open one of the adapter.

    Attributes:
        id: its id.
        end: how it ended, or ``open``.
        version: the version that it made, once it has.
        said: its error's message.
        ended_at: when it ended.
    """

    id: str
    end: JobEnd
    version: int | None = None
    said: str = ""
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """How a version does beside another, or below a limit: one test's numbers.

    Attributes:
        n: pairs, or requests.
        mean: of the differences (scores, -1 to 1), or of what is limited.
        low, high: the interval of the mean.
        total: the sum of what `mean` is the mean of. That one is weighted, so it tells nothing of the newest alone.
        worse: whether it is established that it is worse, or over the limit.
        not_worse: whether it is established that it is not worse by the least drop that matters.
        evidence_worse, evidence_not_worse: the largest evidence so far (e-values).
        needed, needed_worse: what establishes that it is not worse, and that it is worse.
    """

    n: int = 0
    mean: float | None = None
    low: float = -1.0
    high: float = 1.0
    total: float = 0.0
    worse: bool = False
    not_worse: bool = False
    evidence_worse: float = 1.0
    evidence_not_worse: float = 1.0
    needed: float = 20.0
    needed_worse: float = 40.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that is known of a rollout; None where nothing is looked at."""

    incumbent: Held = Held()
    base: Held | None = None
    errors: Held | None = None
    latency: Held | None = None
    cost: Held | None = None


@dataclass(frozen=True, slots=True)
class Approval:
    """What a person said to what was asked: `wanted` is ``retrain`` or ``promote``, for one cycle."""

    wanted: str
    cycle: int
    answer: Literal["none", "approved", "rejected"]
    actor: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that a decision about one adapter is made from.

    Attributes:
        now: the moment.
        deployment: what the name means; None before the first promote.
        changed_by: who made the present revision, if it was a person; None if it followed from a decision.
        taken_away: whether people went back, since the revision that the loop knows, from a version that a decision had
            made stable.
        frozen, paused: who stopped all automatic change, or that of this adapter, and why; None if nobody did.
        quality: None while there is no observation.
        new_quality: what the watch over the version that rolls out says; None while nothing does.
        labels: what a training would have.
        open_job: a job of the adapter under way, whoever asked for it.
        job: the loop's own, by `LoopState.job`.
        spent: what the loop's trainings cost this month.
        has_price: whether an hour of a GPU has a price, so that they cost anything.
        comparison: of the rollout under way.
        approvals: what people said.
    """

    now: datetime
    deployment: Deployment | None
    changed_by: str | None = None
    taken_away: bool = False
    frozen: str | None = None
    paused: str | None = None
    quality: Quality | None = None
    new_quality: Quality | None = None
    labels: Labels = Labels()
    open_job: JobSeen | None = None
    job: JobSeen | None = None
    spent: float = 0.0
    has_price: bool = True
    comparison: Comparison = Comparison()
    approvals: Sequence[Approval] = ()

    def approval(self, wanted: str, cycle: int) -> Approval | None:
        """What was asked in that cycle, with its answer; None if nothing was asked."""
        return next((each for each in self.approvals if (each.wanted, each.cycle) == (wanted, cycle)), None)


Inputs = Mapping[str, Any]
