"""The parts of a gate: each one rule about the candidate and another model, with what it saw and why it passed or not.

superiority       better than the other: the interval lies above the threshold
non_inferiority   worse by no more than a margin: the interval does not reach beyond it
guardrail         not shown to be worse than a limit: the interval does not lie wholly beyond it
"""

from dataclasses import dataclass
from typing import Literal

import msgspec

from tuner.evaluation.comparing import LOSS_BOUND, Compared
from tuner.evaluation.latency import Ratio

Rule = Literal["superiority", "non_inferiority", "guardrail"]
Side = Literal["above", "below"]


@dataclass(frozen=True, slots=True)
class Words:
    """How people read a part: its title, and what is said of a candidate that passes, or that is shown to be worse."""

    title: str
    good: str
    bad: str


WORDS: dict[str, Words] = {
    "quality": Words("Quality", "is better than", "is worse than"),
    "quality_over_base": Words("Quality over the base model", "is better than", "is worse than"),
    "perplexity": Words("Perplexity", "expects the right answers no less than", "expects the right answers less than"),
    "retention": Words("General skills", "keeps the general skills of", "has lost general skills of"),
    "refusals": Words("Refusals", "refuses what it should as much as", "refuses what it should less than"),
    "needless_refusals": Words(
        "Needless refusals", "refuses harmless prompts no more than", "refuses harmless prompts more than"
    ),
    "latency": Words(
        "Latency",
        "is not shown to take longer for a token than is allowed, against",
        "takes too long for a token, against",
    ),
}
PREFERENCE, CLIPPED_LOSS = "preference", "clipped_loss"
"""The scorers that look at how likely a model holds an answer to be."""
_NO_TIMES = "no times could be measured: the answers did not tell how many tokens they have"


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """One part.

    Attributes:
        name: one of `WORDS`.
        scorer: what gave the values.
        against: the engine name of the other model.
        unit: of all numbers but `n` and `asked`, which count rows; ``times`` is those of the other model's.
        n: rows that count; in latency pairs of requests.
        asked: rows that were asked, where that is more: the right answer of the others is nothing that can be scored.
        candidate, reference: the two models' means; in latency their medians, in seconds.
        difference: between `low` and `high`; in latency the ratio.
        unclipped: the candidate's mean as it is, where `candidate` and `difference` are clipped row by row (of losses).
        threshold: what the interval is held against.
        wants: on which side of the threshold the interval should lie.
        passed: None where the part is told and decides nothing.
        reason: one sentence on why, for people.
    """

    name: str
    rule: Rule
    scorer: str
    against: str
    unit: str
    n: int
    candidate: float | None
    reference: float | None
    difference: float | None
    low: float | None
    high: float | None
    threshold: float
    wants: Side
    passed: bool | None
    reason: str
    unclipped: float | None = None
    asked: int | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """What a part is about: the candidate as people write it, another model, and the measure between them."""

    name: str
    candidate: str
    against: str
    scorer: str
    unit: str = "score"

    @property
    def other(self) -> str:
        """The other model as people write it: ``support@7`` for ``support@7-1f3a9c2e``."""
        pinned, _, digest = self.against.rpartition("-")
        return pinned if "@" in pinned and digest else self.against


def superiority(subject: Subject, compared: Compared, least: float) -> Part:
    """Passed if the candidate is shown to gain more than `least`."""
    asked = f", where more than {least:g} is asked for" if least else ""
    return _part(subject, "superiority", compared, least, "above", asked)


def keeps(subject: Subject, compared: Compared, margin: float) -> Part:
    """Passed if the candidate is shown to lose less than `margin`."""
    return _part(subject, "non_inferiority", compared, -margin, "above", f", where a loss of {margin:g} is allowed")


def exceeds_not(subject: Subject, compared: Compared, margin: float) -> Part:
    """Passed if the candidate is shown to have less than `margin` more of what there should be little of."""
    return _part(subject, "non_inferiority", compared, margin, "below", f", where {margin:g} more is allowed")


def as_told(subject: Subject, compared: Compared, wants: Side) -> Part:
    """A comparison that decides nothing."""
    part = _part(subject, "superiority", compared, 0.0, wants, "")
    return msgspec.structs.replace(part, passed=None)


def stays_within(subject: Subject, ratio: Ratio, times: tuple[float, float] | None, limit: float) -> Part:
    """Failed only if the candidate is shown to take more than `limit` times as long; `times` are both medians."""
    words = WORDS[subject.name]
    own, other = times or (None, None)
    passed = ratio.n > 0 and (ratio.low is None or ratio.low <= limit)
    reason = _NO_TIMES
    if ratio.median is not None and own is not None and other is not None:
        reason = (
            f"{subject.candidate} {words.good if passed else words.bad} {subject.other}: {1000 * own:.1f} ms against "
            f"{1000 * other:.1f} ms, {_times(subject, ratio)}, where {limit:g} times is allowed"
        )
    return Part(
        name=subject.name,
        rule="guardrail",
        scorer=subject.scorer,
        against=subject.against,
        unit=subject.unit,
        n=ratio.n,
        candidate=own,
        reference=other,
        difference=ratio.median,
        low=ratio.low,
        high=ratio.high,
        threshold=limit,
        wants="below",
        passed=passed,
        reason=reason,
    )


def told_times(subject: Subject, ratio: Ratio, times: tuple[float, float] | None, limit: float) -> Part:
    """The same of a first version, which is not held to it."""
    part = stays_within(subject, ratio, times, limit)
    reason = _NO_TIMES
    if part.candidate is not None and part.reference is not None:
        reason = (
            f"{subject.candidate} takes {1000 * part.candidate:.1f} ms for a token against {1000 * part.reference:.1f} "
            f"ms of {subject.other}, {_times(subject, ratio)}; a first version is not held to it"
        )
    return msgspec.structs.replace(part, passed=None, reason=reason)


def failed(part: Part, reason: str) -> Part:
    """The part, failed for another reason."""
    return msgspec.structs.replace(part, passed=False, reason=reason)


def _part(subject: Subject, rule: Rule, compared: Compared, threshold: float, wants: Side, asked: str) -> Part:
    inside = compared.low > threshold if wants == "above" else compared.high < threshold
    passed = compared.n > 0 and inside
    return Part(
        name=subject.name,
        rule=rule,
        scorer=subject.scorer,
        against=subject.against,
        unit=subject.unit,
        n=compared.n,
        candidate=compared.candidate,
        reference=compared.reference,
        difference=compared.difference,
        low=compared.low,
        high=compared.high,
        threshold=threshold,
        wants=wants,
        passed=passed,
        reason=_reason(subject, compared, wants, asked, passed=passed),
        unclipped=compared.unclipped,
        asked=compared.asked if compared.asked > compared.n else None,
    )


def _reason(subject: Subject, compared: Compared, wants: Side, asked: str, *, passed: bool) -> str:
    words = WORDS[subject.name]
    claim = f"{subject.candidate} {words.good} {subject.other}"
    if not compared.n:
        return f"nothing shows that {claim}: {_none_scored(subject, compared)}"
    is_worse = compared.high < 0 if wants == "above" else compared.low > 0
    if not passed:
        claim = f"{subject.candidate} {words.bad} {subject.other}" if is_worse else f"it is not shown that {claim}"
    return (
        f"{claim}: {compared.candidate:.3f} against {compared.reference:.3f} on {_rows(subject, compared)}, a "
        f"difference of {compared.difference:+.3f} (between {compared.low:+.3f} and {compared.high:+.3f}){asked}"
        f"{_clipped(compared)}"
    )


def _clipped(compared: Compared) -> str:
    """What people must know of means that are clipped."""
    if compared.unclipped is None:
        return ""
    means = f"{compared.unclipped:.3f} and {compared.reference:.3f}"
    return f"; no row counts as more than {LOSS_BOUND:g} apart: unclipped, the means are {means}"


def _rows(subject: Subject, compared: Compared) -> str:
    """How many rows count, and why not all that were asked."""
    if compared.n == compared.asked:
        return f"{compared.n} rows"
    return f"{compared.n} of {compared.asked} rows ({_why_not(subject)} of the other {compared.asked - compared.n})"


def _none_scored(subject: Subject, compared: Compared) -> str:
    return f"{_why_not(subject)} of the {compared.asked} rows" if compared.asked else "no row was asked"


def _why_not(subject: Subject) -> str:
    if subject.scorer in (PREFERENCE, CLIPPED_LOSS):
        return "the engine did not tell how likely it holds the right answers"
    return f"{subject.scorer} can take nothing from the right answers"


def _times(subject: Subject, ratio: Ratio) -> str:
    between = "" if ratio.low is None else f" (between {ratio.low:.2f} and {ratio.high:.2f})"
    return f"in the median of {ratio.n} pairs of requests {ratio.median:.2f} times the time of {subject.other}{between}"
