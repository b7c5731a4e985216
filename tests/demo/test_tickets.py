"""The tickets, their split and their score."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.tickets import FIELDS, Score, Ticket, add_typo, held_out, score, training
from demo.wording import HELD_OUT, TRAINING, Wording

TICKET = Ticket("Where is my watch?", "delivery", "watch", "low")


def expand(template: str) -> set[str]:
    """Every sentence that a template can become, slots unfilled."""
    parts = re.split(r"\(([^()]*)\)", template)
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    return {"".join(chosen) for chosen in itertools.product(*choices)}


def sentences(wording: Wording) -> set[str]:
    """Every sentence about intent or urgency that tickets of this wording can have."""
    templates = [*wording.intents.values(), *wording.urgencies.values()]
    return {sentence for each in itertools.chain(*templates) for sentence in expand(each)} - {""}


@pytest.mark.parametrize("write", [training, held_out])
def test_the_same_seed_writes_the_same_tickets(write: Callable[[int, int], list[Ticket]]) -> None:
    """A seed fixes every ticket, and another seed gives others."""
    assert write(50, 3) == write(50, 3)
    assert write(50, 3) != write(50, 4)


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    """Fewer tickets of a seed are the first of more, so that version 1 saw a part of what version 2 saw."""
    assert training(80, 3)[:30] == training(30, 3)


def test_held_out_sentences_are_in_no_training_ticket() -> None:
    """No sentence about intent or urgency can be drawn from both wordings."""
    assert not sentences(TRAINING) & sentences(HELD_OUT)


def test_held_out_messages_are_new() -> None:
    """A held-out message never equals a training message, whatever its case."""
    seen = {ticket.message.lower() for ticket in training(3000, 1)}
    assert not seen & {ticket.message.lower() for ticket in held_out(1000, 1)}


def test_both_wordings_have_the_same_labels() -> None:
    """What is tested is what was trained: eight products, eight intents, three urgencies."""
    for wording in (TRAINING, HELD_OUT):
        assert (len(wording.products), len(wording.intents), len(wording.urgencies)) == (8, 8, 3)
    assert TRAINING.intents.keys() == HELD_OUT.intents.keys()
    assert TRAINING.urgencies.keys() == HELD_OUT.urgencies.keys()


@pytest.mark.parametrize("field", FIELDS)
def test_labels_are_drawn_evenly(field: str) -> None:
    """Each value of a field is within a third of its fair share."""
    counts = Counter(getattr(ticket, field) for ticket in held_out(2400, 1))
    fair = 2400 / len(counts)
    assert all(abs(count - fair) < fair / 3 for count in counts.values())


def test_messages_are_finished_sentences() -> None:
    """Each names its product and has no slot or choice left over."""
    for ticket in [*training(500, 1), *held_out(500, 1)]:
        assert ticket.product in ticket.message.lower()
        assert not re.search(r"[(){}|]|  ", ticket.message)


def test_the_answer_is_compact_json_in_a_fixed_order() -> None:
    """The label's text is what an adapter has to write, to the byte."""
    assert TICKET.answer == '{"intent":"delivery","product":"watch","urgency":"low"}'


@pytest.mark.parametrize(
    ("answer", "fields", "exact", "valid"),
    [
        (TICKET.answer, 1, True, True),
        ('{"urgency": "low", "product": "watch", "intent": "delivery"}', 1, False, True),
        ('{"intent":"refund","product":"watch","urgency":"low"}', 2 / 3, False, True),
        ('{"intent":["delivery"],"product":"watch"}', 1 / 3, False, True),
        ("{}", 0, False, True),
        ('["delivery","watch","low"]', 0, False, False),
        ("delivery", 0, False, False),
        (TICKET.answer[:-1], 0, False, False),
        ("", 0, False, False),
    ],
)
def test_an_answer_is_scored_by_its_fields(answer: str, fields: float, exact: bool, valid: bool) -> None:
    """Each right field counts a third, in any order and spacing; what is no JSON object counts nothing."""
    result = score(answer, TICKET)
    assert result.fields == pytest.approx(fields)
    assert (result.exact, result.valid) == (exact, valid)


@given(st.text())
def test_any_text_can_be_scored(text: str) -> None:
    """Nonsense scores nothing and raises nothing."""
    result = score(text, TICKET)
    assert isinstance(result, Score)
    assert result.fields == 0


@given(st.integers(), st.text(min_size=1))
def test_a_typo_changes_a_letter_at_most_by_one_place(seed: int, text: str) -> None:
    """A typo swaps, drops or doubles one letter, so that the length changes by at most one."""
    assert abs(len(add_typo(text, Random(seed))) - len(text)) <= 1


def test_answers_parse_back_to_their_labels() -> None:
    """The answer of each ticket holds its three labels."""
    for ticket in held_out(100, 2):
        assert json.loads(ticket.answer) == {name: getattr(ticket, name) for name in FIELDS}
