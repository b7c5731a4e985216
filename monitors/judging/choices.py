"""Which scorers an adapter may be watched with, and with which options. Light: the gateway checks with it."""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from monitors.judging.scorers import SCORERS, check_choice
from registry.errors import InvalidValue
from registry.monitoring import Monitoring, ScorerChoice
from registry.wording import plain

FEEDBACK = "feedback"
"""What clients and people said of an answer: scored for every adapter, without being chosen."""
JUDGE = "judge"
LIVE = sorted([JUDGE, *(name for name, scorer in SCORERS.items() if "mean_logprob" not in scorer.needs)])
"""What may be chosen for live traffic; how likely a reference is, is asked for golden sets alone."""


class JudgeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The LLM judge's options.

    Attributes:
        share: the share of captured pairs that it is asked about; each is two requests.
        criteria: what counts for this adapter, in words.
    """

    share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    criteria: Annotated[str, msgspec.Meta(max_length=2000)] = ""


def judge_options(choice: ScorerChoice) -> JudgeOptions:
    """The options of a chosen judge.

    Raises:
        InvalidValue
    """
    try:
        return msgspec.convert(choice.options, JudgeOptions)
    except msgspec.ValidationError as error:
        raise InvalidValue(f"options of the scorer {JUDGE}: {plain(error, JudgeOptions)}", param="scorers") from None


def check_options(choices: Sequence[ScorerChoice]) -> None:
    """Raise InvalidValue, saying what is wrong, unless every scorer exists and takes its options.

    A schema may take a second.
    """
    for choice in choices:
        if choice.scorer == FEEDBACK:
            raise InvalidValue("what clients say is always scored and need not be chosen", param="scorers")
        if choice.scorer == JUDGE:
            judge_options(choice)
            continue
        _require_known(choice.scorer, LIVE, "scorers")
        check_choice(choice)


def check_names(monitoring: Monitoring) -> None:
    """Raise InvalidValue, saying what is wrong, unless every scorer is chosen once, and one of them decides."""
    names = [choice.scorer for choice in monitoring.scorers]
    if len(set(names)) < len(names):
        raise InvalidValue("a scorer may be chosen once, for its scores go by its name", param="scorers")
    deciding = monitoring.quality.scorer
    if deciding not in (FEEDBACK, *names):
        raise InvalidValue(
            f"quality is decided by the scorer {deciding!r}, which is not among the adapter's: {_listed(names)}; "
            "choose it too, or let quality.scorer be another one",
            param="quality.scorer",
        )


def _listed(names: list[str]) -> str:
    return ", ".join(sorted([FEEDBACK, *names]))


def _require_known(name: str, known: list[str], param: str) -> None:
    if name not in known:
        raise InvalidValue(f"there is no scorer {name!r}; there are: {', '.join(sorted(known))}", param=param)
