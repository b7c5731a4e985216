"""The scorers, against values computed by hand or published, and the options that they take."""

import math
from typing import Any

import pytest

from monitors.judging import formats, scorers
from monitors.judging.scorers import SCORERS, Sample, check_choice, score
from registry.errors import InvalidValue
from registry.monitoring import ScorerChoice


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("Paris", " paris. ", 1.0),
        ("New\n York", "new york", 1.0),
        ("STRASSE", "straße", 1.0),
        ("ﬁne", "fine", 1.0),
        ("1.5", "15", 0.0),
        ("", "x", 0.0),
    ],
)
def test_exact_match_overlooks_form_alone(answer: str, reference: str, expected: float) -> None:
    """Case, spacing, Unicode form and a full stop at the end do not matter; everything else does."""
    assert scorers.exact_match(answer, reference) == expected


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("the cat sat", "the cat sat on the mat", 2 * 3 / (3 + 6)),
        ("a a a", "a", 2 * 1 / (3 + 1)),
        ("b", "a", 0.0),
        ("", "", 1.0),
        ("", "a", 0.0),
        ("東京都", "京都", 2 * 2 / (3 + 2)),
    ],
)
def test_token_f1_is_that_of_words(answer: str, reference: str, expected: float) -> None:
    """Each word counts as often as both have it; where a script parts no words, each character does."""
    assert scorers.token_f1(answer, reference) == pytest.approx(expected)


def test_rouge_l_is_that_of_the_paper() -> None:
    """Lin (2004), section 3.1: 'police killed the gunman' against two summaries, 3/4 and 2/4."""
    reference = "police killed the gunman"
    assert scorers.rouge_l("police kill the gunman", reference) == pytest.approx(0.75)
    assert scorers.rouge_l("the gunman kill police", reference) == pytest.approx(0.5)


def test_rouge_l_reads_other_scripts() -> None:
    """The library's own words are those of a to z, and anything else would score 0."""
    assert scorers.rouge_l("полиция убила стрелка", "полиция убила вора") == pytest.approx(2 / 3)


def test_rouge_l_of_very_long_texts_ends() -> None:
    """Its time grows with the square of the length, so that only the beginning is compared."""
    assert scorers.rouge_l("word " * 200_000, "word " * 300_000) == pytest.approx(1.0)


def test_bleu_of_a_sentence_is_that_of_its_definition() -> None:
    """Precisions 5/6, 3/5, 1/4 and, smoothed, 1/(2 * 3) of 'the cat is on the mat'; the lengths are equal."""
    expected = math.exp(sum(map(math.log, (5 / 6, 3 / 5, 1 / 4, 1 / 6))) / 4)
    assert scorers.bleu("the cat is on the mat", "the cat sat on the mat") == pytest.approx(expected)
    assert scorers.bleu("the cat sat on the mat", "the cat sat on the mat") == pytest.approx(1.0)
    assert scorers.bleu("", "the cat") == 0.0


def test_bleu_parts_chinese_if_told() -> None:
    """With `zh` each character is a word; without, the sentence is one."""
    assert scorers.bleu("我喜欢吃苹果", "我喜欢吃香蕉", "zh") > 0.4
    assert scorers.bleu("我喜欢吃苹果", "我喜欢吃香蕉") == 0.0


def test_chrf_is_one_for_the_same_and_zero_for_nothing_shared() -> None:
    """And in between, of 'ab' against 'abc', by hand: recall weighs four times as much as precision."""
    assert scorers.chrf("the cat", "the cat") == pytest.approx(1.0)
    assert scorers.chrf("xyz", "abc") == 0.0
    grams = [(1.0, 2 / 3), (1.0, 1 / 2)]  # precision and recall of one and of two characters
    precision, recall = (sum(column) / 2 for column in zip(*grams, strict=True))
    assert scorers.chrf("ab", "abc") == pytest.approx(5 * precision * recall / (4 * precision + recall))


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ('{"a": 1, "b": 2}', '{"b": 2.0, "a": 1}', 1.0),
        ('{"a": 1}', '{"a": 1, "b": 2}', 0.5),
        ('{"a": 1, "c": 3}', '{"a": 1, "b": 2}', 1 / 3),
        ('{"a": {"x": 1, "y": [1, 2]}}', '{"a": {"x": 1, "y": [1, 3]}}', 2 / 3),
        ('{"a": true}', '{"a": 1}', 0.0),
        ('{"a": null}', "{}", 0.0),
        ('{"a": null}', '{"a": null}', 1.0),
        ("[]", "[]", 1.0),
        ("no JSON", '{"a": 1}', 0.0),
        ('{"a": 1}', "no JSON", None),
    ],
)
def test_json_equality_counts_fields(answer: str, reference: str, expected: float | None) -> None:
    """The share of fields, nested ones too, that are equal; what only one side has is not."""
    assert formats.json_equality(answer, reference) == (expected if expected is None else pytest.approx(expected))


def test_json_equality_of_some_fields() -> None:
    """Only those that are named count, whatever else there is."""
    sample = Sample('{"intent": "refund", "note": "x"}', '{"intent": "refund", "note": "y"}')
    assert score(ScorerChoice("json_equality", {"fields": ["intent"]}), sample) == 1.0
    assert score(ScorerChoice("json_equality", {"fields": ["none"]}), sample) is None


def test_label_in_a_field_or_the_whole_answer() -> None:
    """A label is right up to case; an answer without one is wrong, a reference without one says nothing."""
    in_field = ScorerChoice("label", {"field": "intent"})
    assert score(in_field, Sample('{"intent": "Refund"}', '{"intent": "refund"}')) == 1.0
    assert score(in_field, Sample('{"intent": 3}', '{"intent": 3}')) == 1.0
    assert score(in_field, Sample("refund", '{"intent": "refund"}')) == 0.0
    assert score(in_field, Sample('{"intent": "refund"}', "refund")) is None
    assert score(ScorerChoice("label"), Sample("Refund.", "refund")) == 1.0


@pytest.mark.parametrize("answer", ["{}", " [1, 2] ", "null", '"text"', "1e5"])
def test_valid_json(answer: str) -> None:
    """Any JSON value is valid."""
    assert formats.valid_json(answer) == 1.0


@pytest.mark.parametrize("answer", ["", "{", "```json\n{}\n```", "Here: {}", "{'a': 1}", "NaN", "[1,]", "[" * 100_000])
def test_invalid_json(answer: str) -> None:
    """Fences, words, single quotes, NaN and endless nesting are not."""
    assert formats.valid_json(answer) == 0.0


SCHEMA = {
    "type": "object",
    "required": ["intent"],
    "properties": {"intent": {"enum": ["refund", "order"]}, "code": {"type": "string", "pattern": "^[A-Z]{2}$"}},
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"intent": "refund"}', 1.0),
        ('{"intent": "refund", "code": "AB"}', 1.0),
        ('{"intent": "refund", "code": "ABC"}', 0.0),
        ('{"intent": "other"}', 0.0),
        ('{"intent": "order", "more": 1}', 0.0),
        ("refund", 0.0),
        (f'{{"intent": "{"x" * 30_000}"}}', None),
    ],
)
def test_json_schema(answer: str, expected: float | None) -> None:
    """An answer meets the schema, or does not; one beyond the limit has no score."""
    assert score(ScorerChoice("json_schema", {"schema": SCHEMA}), Sample(answer)) == expected


def multiplying(keyword: str, levels: int = 16) -> dict[str, Any]:
    """A small schema that refers to itself twice at each of its levels."""
    twice = {f"s{level}": {keyword: 2 * [{"$ref": f"#/$defs/s{level + 1}"}]} for level in range(levels)}
    return {"$ref": "#/$defs/s0", "$defs": twice | {f"s{levels}": {"type": "object"}}}


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "objekt"}, "not a JSON Schema"),
        ({"$ref": "https://example.com/schema.json"}, "may only point into the schema itself"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "may only point into the schema itself"),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "not there"),
        ({"$ref": "#"}, "without end"),
        ({"$schema": 5}, r"\$schema must be"),
        ({"properties": {"a": {"pattern": "("}}}, "not a regular expression"),
        ({"patternProperties": {"(a+)+$": {}}}, "patternProperties"),
        (multiplying("allOf"), "multiply"),
        (multiplying("oneOf"), "multiply"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", **multiplying("allOf")}, "multiply"),
        ({"anyOf": 3000 * [{}]}, "at most 2000"),
    ],
)
def test_a_schema_that_cannot_be_judged_by_is_refused(schema: dict[str, Any], told: str) -> None:
    """Also one that would send the monitor elsewhere, or never end."""
    with pytest.raises(InvalidValue, match=told):
        check_choice(ScorerChoice("json_schema", {"schema": schema}))


def test_an_answer_that_a_schema_takes_too_many_steps_for_has_no_score() -> None:
    """The steps double with each level of the answer; a few levels are told."""
    schema = {"required": ["a"], "properties": {"a": {"anyOf": [{"type": "null"}, {"allOf": 2 * [{"$ref": "#"}]}]}}}
    choice = ScorerChoice("json_schema", {"schema": schema})
    check_choice(choice)
    assert score(choice, Sample('{"a": ' * 4 + "null" + "}" * 4)) == 1.0
    assert score(choice, Sample('{"a": ' * 40 + "null" + "}" * 40)) is None


def test_a_schema_may_refer_to_itself() -> None:
    """A tree is a schema in itself; an answer that nests beyond what can be followed has no score."""
    tree = {"type": "object", "properties": {"child": {"$ref": "#"}}, "additionalProperties": False}
    choice = ScorerChoice("json_schema", {"schema": tree})
    assert score(choice, Sample('{"child": {"child": {}}}')) == 1.0
    assert score(choice, Sample('{"child": {"other": {}}}')) == 0.0
    assert score(choice, Sample('{"child": ' * 900 + "{}" + "}" * 900)) is None


@pytest.mark.parametrize(
    ("answer", "pattern", "whole", "expected"),
    [
        ("AB-12", r"[A-Z]{2}-\d+", True, 1.0),
        ("AB-12\n", r"[A-Z]{2}-\d+", True, 0.0),
        ("see AB-12", r"[A-Z]{2}-\d+", True, 0.0),
        ("see AB-12", r"[A-Z]{2}-\d+", False, 1.0),
        ("b", "a|b", True, 1.0),
        ("ab", "a|b", True, 0.0),
        ("a" * 20_001, "a*", True, None),
    ],
)
def test_regex(answer: str, pattern: str, whole: bool, expected: float | None) -> None:
    """A pattern matches the whole answer, or a part of it if told so; an answer beyond the limit has no score."""
    assert score(ScorerChoice("regex", {"pattern": pattern, "whole": whole}), Sample(answer)) == expected


def test_a_regex_does_not_backtrack_for_ever() -> None:
    """What would take a backtracking matcher longer than the age of the world is answered."""
    for pattern in (r"(a+)+$", r"(a|aa)+$", r"(.*a){20}$"):
        assert score(ScorerChoice("regex", {"pattern": pattern}), Sample("a" * 5_000 + "b")) == 0.0


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("(", "unclosed group"),
        ("a)|(b", "unopened group"),
        (r"(a)\1", "backreferences are not supported"),
        ("(?=a)", "look-around"),
        ("(((a{1000}){1000}){1000})", "exceeds size limit"),
        ("a" * 1_001, "at most 1000 characters"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused(pattern: str, told: str) -> None:
    """With what is wrong about it."""
    with pytest.raises(InvalidValue, match=told):
        check_choice(ScorerChoice("regex", {"pattern": pattern}))


def test_likelihood_is_the_geometric_mean_of_probabilities() -> None:
    """Of tokens with the probabilities 1/2 and 1/8, 1/4."""
    assert scorers.likelihood((math.log(1 / 2) + math.log(1 / 8)) / 2) == pytest.approx(1 / 4)
    assert scorers.likelihood(1e-7) == 1.0


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (ScorerChoice("exactmatch"), "there is no scorer 'exactmatch'; there are exact_match, "),
        (ScorerChoice("exact_match", {"field": "a"}), "options of the scorer exact_match: there is no field `field`"),
        (ScorerChoice("regex"), "options of the scorer regex: the field `pattern` is missing"),
        (ScorerChoice("regex", {"pattern": 5}), "`pattern` must be a text"),
        (ScorerChoice("bleu", {"tokenize": "ja-mecab"}), "`tokenize` must be '13a'"),
    ],
)
def test_a_wrong_choice_is_refused(choice: ScorerChoice, told: str) -> None:
    """An unknown scorer or option says what there is, or what is wrong."""
    with pytest.raises(InvalidValue, match=told):
        check_choice(choice)


REQUIRED: dict[str, dict[str, Any]] = {"json_schema": {"schema": {}}, "regex": {"pattern": "x"}}


@pytest.mark.parametrize("name", SCORERS)
def test_a_scorer_without_what_it_needs_has_no_score(name: str) -> None:
    """No data is no score, and never a bad one."""
    assert score(ScorerChoice(name, REQUIRED.get(name, {})), Sample(None)) is None


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("answer", ["", " ", "a", "{}", "\ud800", "\x00", "💥" * 50, "[[", "a" * 5_000])
def test_a_score_lies_between_0_and_1(name: str, answer: str) -> None:
    """Whatever a model answers, and whatever the reference is."""
    for reference in ("", "a", '{"a": 1}', "💥"):
        value = score(ScorerChoice(name, REQUIRED.get(name, {})), Sample(answer, reference, "", -1.0))
        assert value is None or 0 <= value <= 1


ANSWERS = ["a", "a", "B", "c", "b"]
REFERENCES = ["a", "b", "b", "b", "a"]


def test_accuracy_and_macro_f1() -> None:
    """By hand: 2 of 5; F1 of a 2*1/(2+2), of b 2*1/(2+3), of c 0."""
    assert scorers.accuracy(ANSWERS, REFERENCES) == pytest.approx(0.4)
    assert scorers.macro_f1(ANSWERS, REFERENCES) == pytest.approx((0.5 + 0.4 + 0) / 3)


def test_auc() -> None:
    """By hand: of 2 * 2 pairs, 3 in the right order and one tie; None without a pair."""
    assert scorers.auc([0.9, 0.4, 0.4, 0.1], [True, True, False, False]) == pytest.approx(3.5 / 4)
    assert scorers.auc([0.9, 0.4], [True, True]) is None


def test_corpus_bleu_is_that_of_all_answers_together() -> None:
    """By hand: counts are added up before they are divided, and one length is held against the other."""
    answers, references = ["the cat is on the mat", "a dog"], ["the cat is on the mat", "a dog sleeps here"]
    assert scorers.corpus_bleu(answers, references) == pytest.approx(math.exp(1 - 10 / 8))
    assert scorers.corpus_bleu(answers[:1], references[:1]) == pytest.approx(1.0)


def test_mean_rouge_l_is_the_mean() -> None:
    """Of 1 and 0."""
    assert scorers.mean_rouge_l(["a b", "c"], ["a b", "d"]) == pytest.approx(0.5)
