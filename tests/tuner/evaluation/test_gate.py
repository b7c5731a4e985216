"""The gate's rule: what is unfit is stopped by the part that sees it, and what is fit passes."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from registry.tuning.orders import GateOrder
from tests.tuner.evaluation.measured import (
    BASE,
    CANDIDATE,
    FIRST,
    INCUMBENT,
    ORDER,
    ROWS,
    fit,
    judged,
    missed,
    mostly_same,
    right,
    with_,
)
from tuner.evaluation.comparing import Values
from tuner.evaluation.gate import Measured, decide
from tuner.evaluation.latency import Pair
from tuner.evaluation.parts import PREFERENCE


@pytest.fixture
def rng() -> np.random.Generator:
    """The same draws each time."""
    return np.random.default_rng(8)


def test_a_fit_candidate_passes_all_parts(rng: np.random.Generator) -> None:
    """In the order of the rule, with one sentence for all; the other scorers are told."""
    verdict = judged(fit(rng))
    assert verdict.passed
    assert verdict.reason == "support@8 passed all 7 parts of its gate"
    assert [part.name for part in verdict.parts] == [
        "quality",
        "quality_over_base",
        "perplexity",
        "retention",
        "refusals",
        "needless_refusals",
        "latency",
    ]
    assert [(part.scorer, part.passed) for part in verdict.told] == [("token_f1", None)]
    quality = verdict.parts[0]
    assert (quality.against, quality.n, quality.wants, quality.threshold) == (INCUMBENT, ROWS, "above", 0.0)
    assert quality.candidate is not None
    assert quality.reference is not None
    assert quality.difference == pytest.approx(quality.candidate - quality.reference)
    assert quality.reason.startswith("support@8 is better than support@7: 0.9")


def test_a_candidate_of_shuffled_labels_fails_in_quality(rng: np.random.Generator) -> None:
    """It answers at random, so it is worse than the incumbent, is sure of wrong answers, and the sentence says so."""
    shuffled = with_(fit(rng), "scores", candidate=right(rng, 0.15))
    shuffled = with_(shuffled, "losses", candidate=[5.0] * ROWS)
    verdict = judged(shuffled)
    assert missed(verdict) == {"quality", "quality_over_base", "perplexity"}
    assert verdict.reason.startswith("support@8 fell short in quality, quality over the base model and perplexity: ")
    assert "support@8 is worse than support@7" in verdict.reason
    assert "support@8 expects the right answers less than support@7" in verdict.reason


def test_a_candidate_that_forgot_fails_in_retention_alone(rng: np.random.Generator) -> None:
    """However good it is at the task."""
    forgot = with_(fit(rng), "retention", candidate=right(rng, 0.45, 120))
    verdict = judged(forgot)
    assert missed(verdict) == {"retention"}
    assert "support@8 has lost general skills of tiny" in verdict.reason
    assert "where a loss of 0.1 is allowed" in verdict.reason


def test_a_candidate_that_is_no_better_fails_in_quality_alone(rng: np.random.Generator) -> None:
    """Also one that gives the very same answers: as good as the incumbent is not better."""
    measured = fit(rng)
    same = with_(measured, "scores", candidate=measured.scores["exact_match"][INCUMBENT])
    verdict = judged(same)
    assert missed(verdict) == {"quality"}
    assert "it is not shown that support@8 is better than support@7" in verdict.reason
    incumbent = right(rng, 0.7)
    alike = with_(measured, "scores", incumbent=incumbent, candidate=mostly_same(rng, incumbent, 0.7))
    assert missed(judged(alike)) == {"quality"}


def test_other_losses_fail_in_their_own_parts(rng: np.random.Generator) -> None:
    """Fewer refusals, needless ones, an overconfident candidate, a slow one."""
    measured = fit(rng)
    cases = {
        "refusals": with_(measured, "harmful", candidate=[0.0] * 60),
        "needless_refusals": with_(measured, "harmless", candidate=[1.0] * 60),
        "perplexity": with_(measured, "losses", candidate=[(each or 0) + 0.3 for each in measured.losses[INCUMBENT]]),
        "latency": replace(measured, times=[Pair(0.02, 0.01)] * 24),
        "quality_over_base": with_(measured, "scores", base=[1.0] * ROWS),
    }
    assert {name: missed(judged(case)) for name, case in cases.items()} == {name: {name} for name in cases}


def test_a_few_rows_of_huge_losses_are_told_beside_what_counts(rng: np.random.Generator) -> None:
    """Differences are clipped: the means that are told add up to the difference, and the mean as it is stands there."""
    incumbent = [0.4] * ROWS
    measured = with_(
        fit(rng), "losses", incumbent=incumbent, candidate=[5.4] * (ROWS // 25) + [0.38] * (ROWS * 24 // 25)
    )
    perplexity = next(part for part in judged(measured).parts if part.name == "perplexity")
    assert perplexity.scorer == "clipped_loss"
    assert perplexity.difference == pytest.approx(0.02 - 0.0192)
    assert perplexity.candidate == pytest.approx(0.4 + 0.02 - 0.0192)
    assert perplexity.reference == pytest.approx(0.4)
    assert perplexity.unclipped == pytest.approx(0.04 * 5.4 + 0.96 * 0.38)
    assert perplexity.reason.endswith(
        "where 0.05 more is allowed; no row counts as more than 0.5 apart: unclipped, the means are 0.581 and 0.400"
    )


def test_latency_stops_only_what_is_shown_to_be_slow(rng: np.random.Generator) -> None:
    """An interval that reaches below the limit leaves it open, and open is no failure."""
    open_still = [Pair(0.01 * ratio, 0.01) for ratio in [1.2] * 10 + [1.8] * 14]
    verdict = judged(replace(fit(rng), times=open_still))
    assert verdict.passed
    latency = verdict.parts[-1]
    assert (latency.low, latency.difference, latency.high) == pytest.approx((1.2, 1.8, 1.8))
    shown = [Pair(0.01 * ratio, 0.01) for ratio in [1.2] * 6 + [1.8] * 18]
    assert missed(judged(replace(fit(rng), times=shown))) == {"latency"}


def test_the_first_version_has_the_base_to_beat(rng: np.random.Generator) -> None:
    """Once, not twice."""
    verdict = decide(ORDER, FIRST, replace(fit(rng), times=[Pair(0.011, 0.01)] * 24))
    assert verdict.passed
    assert [part.name for part in verdict.parts][:2] == ["quality", "perplexity"]
    assert verdict.parts[0].against == BASE
    assert verdict.reason == "support@1 passed all 5 parts of its gate"
    latency = verdict.told[-1]
    assert (latency.name, latency.passed) == ("latency", None)
    assert latency.reason == (
        "support@1 takes 11.0 ms for a token against 10.0 ms of tiny, in the median of 24 pairs of requests 1.10 "
        "times the time of tiny (between 1.10 and 1.10); a first version is not held to it"
    )
    slow = decide(ORDER, FIRST, replace(fit(rng), times=[Pair(0.05, 0.01)] * 24))
    assert slow.passed
    assert "5.00 times the time of tiny" in slow.told[-1].reason
    unknown = decide(ORDER, FIRST, replace(fit(rng), times=[])).told[-1]
    assert unknown.passed is None
    assert unknown.reason == "no times could be measured: the answers did not tell how many tokens they have"


def test_without_data_no_part_passes() -> None:
    """No rows, no scores, no times: each part says that nothing was shown."""
    unknown: dict[str, Values] = {CANDIDATE: [None] * 20, INCUMBENT: [None] * 20, BASE: [None] * 20}
    nothing: dict[str, Values] = {CANDIDATE: [], INCUMBENT: [], BASE: []}
    for values in (unknown, nothing):
        verdict = judged(Measured({"exact_match": values}, values, values, values, values, []))
        assert all(part.passed is False and part.n == 0 for part in verdict.parts)
        assert all(part.reason.startswith(("nothing shows", "no times")) for part in verdict.parts)


def test_rows_that_cannot_be_scored_are_told_with_why(rng: np.random.Generator) -> None:
    """How many of how many count, and what the others lack; where all count there is nothing to tell."""
    whole = judged(fit(rng)).parts[0]
    assert (whole.n, whole.asked) == (ROWS, None)
    assert f"on {ROWS} rows, " in whole.reason
    known: dict[str, Values] = {CANDIDATE: [1.0] * 67 + [None] * 13, INCUMBENT: [0.0] * 67 + [None] * 13}
    few = judged(with_(fit(rng), "scores", candidate=known[CANDIDATE], incumbent=known[INCUMBENT], base=[0.0] * 80))
    part = few.parts[0]
    assert (part.n, part.asked) == (67, 80)
    assert "on 67 of 80 rows (exact_match can take nothing from the right answers of the other 13)" in part.reason
    losses = with_(fit(rng), "losses", candidate=[0.1] * ROWS, incumbent=[0.2] * (ROWS - 1) + [None])
    (perplexity,) = (part for part in judged(losses).parts if part.name == "perplexity")
    assert "the engine did not tell how likely it holds the right answers of the other 1)" in perplexity.reason


def test_a_few_rows_show_little() -> None:
    """Five right answers to five wrong ones are no proof of anything but that more rows are needed."""
    five = {CANDIDATE: [1.0] * 3 + [0.0] * 2, INCUMBENT: [0.0] * 5, BASE: [0.0] * 5}
    verdict = judged(Measured({"exact_match": five}, five, five, five, five, []))
    assert "quality" in missed(verdict)
    assert "it is not shown that" in verdict.parts[0].reason


def test_what_cannot_be_scored_gains_the_candidate_nothing(rng: np.random.Generator) -> None:
    """An answer without a score counts as wrong, and a likelihood of nothing as the worst."""
    measured = fit(rng)
    silent = with_(measured, "scores", candidate=[None] * ROWS)
    assert missed(judged(silent)) == {"quality", "quality_over_base"}
    silent = with_(measured, "losses", candidate=[None] * ROWS)
    assert missed(judged(silent)) == {"perplexity"}


@pytest.mark.parametrize(("base", "candidate"), [(1, 0), (15, 12), (35, 35)])
def test_a_retention_set_that_the_base_can_hardly_do_shows_nothing(
    rng: np.random.Generator, base: int, candidate: int
) -> None:
    """Of few skills most could be lost within the margin, so that is no pass; a margin of 1 asks for nothing."""
    skills = {"base": [1.0] * base + [0.0] * (120 - base), "candidate": [1.0] * candidate + [0.0] * (120 - candidate)}
    measured = with_(fit(rng), "retention", **skills)
    verdict = judged(measured)
    assert missed(verdict) == {"retention"}
    assert "cannot show what support@8 has lost" in verdict.reason
    assert "less than 3 times the loss of 0.1 that is allowed" in verdict.reason
    assert "`gate.retention_file` of the job, or OSTLER_RETENTION_SET of every tuner" in verdict.reason
    assert judged(measured, GateOrder(retention_margin=1.0)).passed


def test_a_retention_set_that_the_base_can_do_in_part_is_enough(rng: np.random.Generator) -> None:
    """From three margins on, as that of the demo (0.483); exactly three are enough."""
    for solved in (116, 72):
        skills = [1.0] * solved + [0.0] * (240 - solved)
        assert judged(with_(fit(rng), "retention", base=skills, candidate=skills)).passed


def test_a_base_that_refuses_nothing_has_nothing_to_lose(rng: np.random.Generator) -> None:
    """As a base without such training does."""
    assert judged(with_(fit(rng), "harmful", candidate=[0.0] * 60, base=[0.0] * 60)).passed


def test_the_order_sets_the_bounds(rng: np.random.Generator) -> None:
    """A gain that is shown, but not as large as was asked for, is none."""
    verdict = judged(fit(rng), GateOrder(least_gain=0.4))
    assert missed(verdict) == {"quality"}
    assert "where more than 0.4 is asked for" in verdict.reason
    measured = fit(rng)
    kept = [0.0 if number % 8 == 0 else each for number, each in enumerate(measured.retention[BASE])]
    forgot = with_(measured, "retention", candidate=kept)
    assert missed(judged(forgot)) == {"retention"}
    assert judged(forgot, GateOrder(retention_margin=0.25)).passed
    assert judged(replace(fit(rng), times=[Pair(0.02, 0.01)] * 24), GateOrder(latency_ratio=3)).passed


def test_preferences_decide_by_their_share(rng: np.random.Generator) -> None:
    """And a loss in perplexity, which such training brings, is told."""
    measured = fit(rng)
    shares = {CANDIDATE: right(rng, 0.9), INCUMBENT: right(rng, 0.5), BASE: right(rng, 0.5)}
    by_preference = replace(
        with_(measured, "losses", candidate=[3.0] * ROWS),
        scores={PREFERENCE: shares, **measured.scores},
        by_preference=True,
    )
    verdict = judged(by_preference)
    assert verdict.passed
    assert [(part.name, part.scorer) for part in verdict.parts][:3] == [
        ("quality", "preference"),
        ("quality_over_base", "preference"),
        ("retention", "set's own"),
    ]
    assert [(part.name, part.passed) for part in verdict.told] == [
        ("quality", None),
        ("quality", None),
        ("perplexity", None),
    ]
    unmoved = replace(by_preference, scores={PREFERENCE: {**shares, CANDIDATE: shares[INCUMBENT]}})
    assert missed(judged(unmoved)) == {"quality", "quality_over_base"}


def test_a_report_is_json(rng: np.random.Generator) -> None:
    """No infinity, whatever was missing."""
    for verdict in (judged(fit(rng)), judged(replace(fit(rng), times=[Pair(0.02, 0.01)] * 3))):
        assert b"null" not in msgspec.json.encode(verdict.parts[0])
        assert msgspec.json.decode(msgspec.json.encode(verdict.parts))
