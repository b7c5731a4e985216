"""Near duplicates."""

import random

import pytest

from monitors.judging.golden import Message
from monitors.teaching.rows import Row, SupervisedRow
from tests.tuner.data import files
from tuner.data.duplicates import near_duplicates, pieces, similarity

TEXT = "my parcel with the garden chair was to arrive on monday but the courier has not come yet, and i worry"


def row(question: str, answer: str = "delivery") -> Row:
    """A row."""
    return SupervisedRow([Message("user", question), Message("assistant", answer)])


def found(rows: list[Row], threshold: float = 0.9) -> list[int]:
    """Which of them are near duplicates."""
    return near_duplicates(len(rows), rows.__getitem__, threshold)


def others(count: int) -> list[Row]:
    """Rows with nothing in common."""
    return [row(each["messages"][0]["content"], "delivery") for each in files.rows(count)]


def test_a_row_that_says_nearly_the_same_is_found() -> None:
    """A typo makes no new row, wherever it stands; the first one stays."""
    rows = [*others(30), row(TEXT), *others(30)[:0], row(TEXT.replace("monday", "mondy")), row(TEXT + "!")]
    assert found(rows) == [31, 32]


def test_other_words_make_another_row() -> None:
    """Prompts below the threshold stay, as do those with other answers."""
    rows = [*others(30), row(TEXT), row(TEXT.replace("garden chair", "coffee machine")), row(TEXT + "!", "refund")]
    assert found(rows) == []


def test_the_threshold_is_held() -> None:
    """What is less alike than a row's similarity is found only below it."""
    changed = TEXT.replace("monday", "friday")
    alike = similarity(pieces(TEXT), pieces(changed))
    rows = [*others(30), row(TEXT), row(changed)]
    assert 0.8 < alike < 0.9
    assert found(rows, 0.9) == []
    assert found(rows, 0.75) == [31]


def test_an_instruction_that_all_rows_share_makes_no_duplicates() -> None:
    """What many prompts share does not count, however long it is."""
    instruction = " ".join(f"rule {number}: {number**7:x}" for number in range(100))
    rows = [row(instruction + files.rows(40)[number]["messages"][0]["content"]) for number in range(40)]
    assert found(rows) == []
    twin = row(instruction + TEXT)
    assert found([*rows, twin, row(instruction + TEXT + "!")]) == [41]


def test_instructions_that_differ_make_no_duplicates() -> None:
    """The same text under two frequent instructions is two prompts, also if both answers are the same."""
    asked = ["Is it about the delivery of a parcel? ", "Does the customer sound angry to you? "]
    texts = [each["messages"][0]["content"] for each in files.rows(40)]
    rows = [row(question + text[:30], "yes") for text in texts for question in asked]
    assert found(rows) == []


def test_similarity_is_jaccards() -> None:
    """The similarity of two sets of pieces is their intersection over their union."""
    one, other = pieces("abcdefgh"), pieces("abcdefgx")
    assert similarity(one, other) == pytest.approx(3 / 5)
    assert similarity(one, one) == 1.0
    assert len(pieces("ab")) == 1


def test_most_of_those_at_the_threshold_are_found() -> None:
    """Of pairs a little above the threshold the sketches miss few."""
    rng = random.Random(1)
    rows: list[Row] = []
    for number in range(150):
        letters = [rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(300)]
        rows.append(row("".join(letters)))
        letters[number] = "-"
        letters[-number - 1] = "-"
        rows.append(row("".join(letters)))
    assert len(found(rows)) > 135


def test_many_alike_prompts_with_unlike_answers_all_stay() -> None:
    """Alike prompts teach a difference where their answers differ, however many there are."""
    rows = [*others(400), *(row(TEXT + str(number), f"answer {number * 7919:x}") for number in range(15))]
    assert found(rows) == []
