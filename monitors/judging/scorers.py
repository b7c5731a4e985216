"""What a score is: plain functions from an answer, and what it is held against, to a number in [0, 1].

`SCORERS` has them by name, each with what it needs and which options it takes; `METRICS` are of many answers together.
Scores from clients (``feedback``) and from a judging model are made elsewhere. The libraries are imported where they
are needed: the gateway reads the names and checks the options, and must stay light.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from statistics import fmean
from typing import Any, Literal

import msgspec

from monitors.judging import formats, refusals
from registry.errors import InvalidValue
from registry.monitoring import ScorerChoice
from registry.wording import plain

LONGEST = 2000  # tokens of a text that ROUGE-L compares: its time grows with their square
_LONE = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # Thai, kana, Chinese, Korean: words are not parted
_TOKEN = re.compile(rf"[{_LONE}]|[^\W{_LONE}]+")


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer and what is known about it; None is what is not known.

    Attributes:
        answer: the text of the first choice.
        reference: the answer that should have been: a correction, a label, or a golden row's.
        prompt: a list of messages, or a text.
        mean_logprob: the mean log probability (nats) of the tokens whose likelihood is asked for.
    """

    answer: str | None
    reference: str | None = None
    prompt: Any = None
    mean_logprob: float | None = None


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For scorers that take none."""


class BleuOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How BLEU parts words: ``13a`` suits most languages, ``zh`` Chinese, ``char`` others without spaces."""

    tokenize: Literal["13a", "intl", "zh", "char"] = "13a"


class LabelOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the label stands: in a field of a JSON object, or, without `field`, as the whole answer."""

    field: str | None = None


class JsonOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which fields of the object count, by their names at the top; all of them if none is named."""

    fields: tuple[str, ...] = ()


class SchemaOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON Schema (draft 2020-12 where it names no other) that an answer must meet."""

    schema: dict[str, Any]

    def __post_init__(self) -> None:
        formats.check_schema(self.schema)


class RegexOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The regular expression, and whether it must match the whole answer or any part of it."""

    pattern: str
    whole: bool = True

    def __post_init__(self) -> None:
        formats.check_pattern(self.pattern)


def exact_match(answer: str, reference: str) -> float:
    """1 if both are the same text but for case, spacing, Unicode form and a full stop at the end."""
    return float(_plain(answer) == _plain(reference))


def token_f1(answer: str, reference: str) -> float:
    """The harmonic mean of precision and recall over words, as SQuAD counts them, but with articles kept."""
    given, wanted = Counter(_tokens(answer)), Counter(_tokens(reference))
    if not given or not wanted:
        return float(given == wanted)
    return 2 * (given & wanted).total() / (given.total() + wanted.total())


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L's F-measure over words of any script; of longer texts, over the first `LONGEST` words."""
    return float(_rouge().score(reference, answer)["rougeL"].fmeasure)


def bleu(answer: str, reference: str, tokenize: str = "13a") -> float:
    """Sentence BLEU of up to four words, with sacrebleu's exponential smoothing, divided by 100."""
    from sacrebleu.metrics import BLEU

    return _share(BLEU(tokenize=tokenize, effective_order=True).sentence_score(answer, [reference]).score / 100)


def chrf(answer: str, reference: str) -> float:
    """The chrF2 of characters, divided by 100: kinder than BLEU to short texts and rich inflection."""
    from sacrebleu.metrics import CHRF

    return _share(CHRF().sentence_score(answer, [reference]).score / 100)


def label(answer: str, reference: str, field: str | None = None) -> float | None:
    """1 if the label is right, up to case and spacing; None if the reference has none."""
    if field is None:
        return exact_match(answer, reference)
    wanted, given = formats.json_field(reference, field), formats.json_field(answer, field)
    if wanted is None:
        return None
    return 0.0 if given is None else exact_match(given, wanted)


def likelihood(mean_logprob: float) -> float:
    """The geometric mean of the tokens' probabilities."""
    return math.exp(min(mean_logprob, 0.0))


def not_refused(answer: str) -> float:
    """1 unless the answer opens with a refusal."""
    return float(not refusals.refused(answer))


@dataclass(frozen=True, slots=True)
class Scorer:
    """A function to a score, the fields of a `Sample` that it takes, in order, and the options, by name."""

    function: Callable[..., float | None]
    needs: tuple[str, ...]
    options: type[msgspec.Struct] = NoOptions


_PAIR = ("answer", "reference")

SCORERS: dict[str, Scorer] = {
    "exact_match": Scorer(exact_match, _PAIR),
    "token_f1": Scorer(token_f1, _PAIR),
    "rouge_l": Scorer(rouge_l, _PAIR),
    "bleu": Scorer(bleu, _PAIR, BleuOptions),
    "chrf": Scorer(chrf, _PAIR),
    "label": Scorer(label, _PAIR, LabelOptions),
    "json_equality": Scorer(formats.json_equality, _PAIR, JsonOptions),
    "valid_json": Scorer(formats.valid_json, ("answer",)),
    "json_schema": Scorer(formats.json_schema, ("answer",), SchemaOptions),
    "regex": Scorer(formats.regex, ("answer",), RegexOptions),
    "likelihood": Scorer(likelihood, ("mean_logprob",)),
    "not_refused": Scorer(not_refused, ("answer",)),
}


def accuracy(answers: Sequence[str], references: Sequence[str]) -> float:
    """The share of answers that are the right label, up to case and spacing."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(*_labels(answers, references)))


def macro_f1(answers: Sequence[str], references: Sequence[str]) -> float:
    """The mean of the F1 of all labels that were right or answered, each counting the same; 0 for one never right."""
    from sklearn.metrics import f1_score

    return float(f1_score(*_labels(answers, references), average="macro", zero_division=0))


def corpus_bleu(answers: Sequence[str], references: Sequence[str], tokenize: str = "13a") -> float:
    """BLEU of all answers together, as it is published, divided by 100; not the mean of their own."""
    from sacrebleu.metrics import BLEU

    return _share(BLEU(tokenize=tokenize).corpus_score(list(answers), [list(references)]).score / 100)


def mean_rouge_l(answers: Sequence[str], references: Sequence[str]) -> float:
    """The mean of the answers' ROUGE-L."""
    return fmean(rouge_l(answer, reference) for answer, reference in zip(answers, references, strict=True))


def auc(scores: Sequence[float], positives: Sequence[bool]) -> float | None:
    """The probability that a positive has a higher score than a negative, ties by half; None where one kind lacks."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(list(positives), list(scores))) if len(set(positives)) == 2 else None


# What is said of all answers of a set together; each takes the answers and the references, of one pair at least.
METRICS: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "corpus_bleu": corpus_bleu,
    "mean_rouge_l": mean_rouge_l,
}


def check_choice(choice: ScorerChoice) -> None:
    """Raise InvalidValue, saying what is wrong, unless there is such a scorer and it takes these options."""
    _options(choice.scorer, msgspec.json.encode(choice.options))


def score(choice: ScorerChoice, sample: Sample) -> float | None:
    """The score in [0, 1], or None where the sample lacks what the scorer needs. Raises InvalidValue for the choice."""
    options = _options(choice.scorer, msgspec.json.encode(choice.options))
    scorer = SCORERS[choice.scorer]
    given = [getattr(sample, name) for name in scorer.needs]
    return None if None in given else scorer.function(*given, **msgspec.structs.asdict(options))


@lru_cache(maxsize=256)
def _options(name: str, options: bytes) -> msgspec.Struct:
    scorer = SCORERS.get(name)
    if scorer is None:
        raise InvalidValue(f"there is no scorer {name!r}; there are {', '.join(SCORERS)}", param="scorers")
    try:
        return msgspec.json.decode(options, type=scorer.options)
    except msgspec.ValidationError as error:
        words = plain(error, scorer.options)
        raise InvalidValue(f"options of the scorer {name}: {words}", param="scorers") from None


def _labels(answers: Sequence[str], references: Sequence[str]) -> tuple[list[str], list[str]]:
    return [_plain(text) for text in references], [_plain(text) for text in answers]


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".。")


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


class _Words:
    """Hands ROUGE words of any script: its own way keeps a to z alone."""

    def tokenize(self, text: str) -> list[str]:
        return _tokens(text)[:LONGEST]


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())


def _share(value: float) -> float:
    return min(max(value, 0.0), 1.0)
