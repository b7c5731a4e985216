"""What a test has established, as a decision in plain words with its numbers."""

from collections.abc import Mapping
from typing import Any, Literal

from monitors.decisions import Decision
from monitors.judging.pairing import BASE
from registry.monitoring import QualityRule
from registry.names import parse_pinned

Finding = Literal["alarm", "better", "worse"]
KIND = "quality"
_BESIDE = {
    "level": "",
    "base": " beside those of the base model",
    "incumbent": " beside those of the version before",
}


def decision(
    adapter: str,
    version: int,
    scorer: str,
    against: str,
    finding: Finding,
    summary: Mapping[str, Any],
    rule: QualityRule,
) -> Decision:
    """The decision that a finding is; `summary` are the test's numbers, `against` what it held the version against."""
    inputs = {"scorer": scorer, "against": against, **summary}
    if finding == "alarm":
        fallen = _fallen_version(version, against, summary)
        rule_words = _alarm_rule(scorer, summary["watch"])
        return Decision(adapter, fallen, KIND, "alarm", rule_words, _fell(scorer, summary), inputs)
    other = BASE if against == BASE else "stable"
    outcome = f"{finding}_than_{other}"
    words = _compared(finding, scorer, "the base model" if against == BASE else against, summary)
    return Decision(adapter, version, KIND, outcome, _comparison_rule(finding, scorer, rule.alpha), words, inputs)


def _fallen_version(version: int, against: str, summary: Mapping[str, Any]) -> int:
    """Whose quality was lost; against the incumbent it is the stable version's, which is what the other is held to."""
    pinned = parse_pinned(against) if _against(summary) == "incumbent" else None
    return version if pinned is None else pinned.number


def _against(summary: Mapping[str, Any]) -> str:
    """What the watch holds its scores against; what was stored long ago does not say it."""
    return str(summary["watch"].get("against", "level"))


def _alarm_rule(scorer: str, watch: Mapping[str, Any]) -> str:
    beside = _BESIDE[watch.get("against", "level")]
    return (
        f"e-CUSUM of the scores by {scorer}{beside}: an alarm once the evidence that their mean is below "
        f"{watch['level'] - watch['drop']:.3f} (level {watch['level']:.3f}, drop {watch['drop']:g}) reaches "
        f"{watch['alarm_every']}, so that false alarms are at least that many observations apart on average"
    )


def _fell(scorer: str, summary: Mapping[str, Any]) -> str:
    watch, against = summary["watch"], _against(summary)
    if against != "level":
        return _fell_beside(scorer, against, summary)
    return (
        f"Quality was lost: by {scorer} the newest sessions score {summary['recent']:.3f} on average where "
        f"{watch['level']:.3f} is expected and a fall of {watch['drop']:g} matters. Over all "
        f"{summary['observations']} sessions the mean is {summary['mean']:.3f} "
        f"({summary['low']:.3f} to {summary['high']:.3f})."
    )


def _fell_beside(scorer: str, against: str, summary: Mapping[str, Any]) -> str:
    """The same of differences; against the incumbent they are there from the other side."""
    watch, sign = summary["watch"], -1 if against == "incumbent" else 1
    low, high = sorted((sign * summary["low"], sign * summary["high"]))
    return (
        f"Quality was lost: by {scorer} the newest sessions score {sign * summary['recent']:+.3f} on average"
        f"{_BESIDE[against]}, where {watch['level']:+.3f} is expected and a fall of {watch['drop']:g} matters. Over "
        f"all {summary['observations']} sessions it is {sign * summary['mean']:+.3f} ({low:+.3f} to {high:+.3f})."
    )


def _comparison_rule(finding: Finding, scorer: str, alpha: float) -> str:
    side = "at most" if finding == "better" else "at least"
    return (
        f"betting test of the paired differences by {scorer} against 'the mean is {side} 0', one observation per "
        f"session: established once the evidence reaches {1 / alpha:g}, which errs with probability {alpha:g} at most"
    )


def _compared(finding: Finding, scorer: str, other: str, summary: Mapping[str, Any]) -> str:
    """The test needs fewer sessions than the interval, which says how large the difference is and not only its sign."""
    return (
        f"It is {finding} than {other}: the evidence of it, by {scorer} over {summary['observations']} sessions, is "
        f"{summary['evidence_' + finding]:.4g}, and {summary['evidence_needed']:g} was needed. Its answers score "
        f"{summary['mean']:+.3f} beside the other's to the same requests; how large the difference is lies between "
        f"{summary['low']:+.3f} and {summary['high']:+.3f} so far."
    )
