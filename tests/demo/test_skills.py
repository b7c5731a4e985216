"""What the base model is trained on."""

import json

from demo.skills import COARSE_INTENTS, SKILLS, pretraining, skills
from demo.wording import TRAINING


def test_the_same_seed_gives_the_same_examples() -> None:
    """A seed fixes the examples, and another seed gives others."""
    assert pretraining(200, 1) == pretraining(200, 1)
    assert pretraining(200, 1) != pretraining(200, 2)
    assert skills(200, 1) == skills(200, 1)


def test_the_base_never_sees_the_desks_own_intents() -> None:
    """Coarse intents cover each intent and equal none, so that only an adapter can know the right ones."""
    assert COARSE_INTENTS.keys() == TRAINING.intents.keys()
    assert not set(COARSE_INTENTS.values()) & set(TRAINING.intents)


def test_a_sixth_of_the_examples_is_weak_triage() -> None:
    """The base learns the shape of an answer from about one example in six."""
    triage = [each for each in pretraining(4000, 1) if each.answer.startswith('{"intent"')]
    assert 0.14 < len(triage) / 4000 < 0.18
    assert {json.loads(each.answer)["intent"] for each in triage} == set(COARSE_INTENTS.values())


def test_every_skill_is_drawn() -> None:
    """Among a thousand rows each skill is there, recognised by how its prompts begin or end."""
    prompts = [each.prompt for each in skills(1000, 1)]
    starts = ("Repeat", "First", "Reverse", "In capitals", "How many", "As JSON", "Which product", "Is it urgent")
    assert all(any(prompt.startswith(start) for prompt in prompts) for start in starts)
    assert len(SKILLS) >= 12


def test_skills_are_solvable_from_their_prompts() -> None:
    """Copies, sums and looked-up fields have the answers that a reader would give."""
    for each in skills(1000, 2):
        if each.prompt.startswith(("Repeat: ", "Copy: ", "Say: ")):
            assert each.answer == each.prompt.split(": ", 1)[1]
        if each.prompt.endswith("="):
            left, right = each.prompt.removesuffix(" =").split(" + ")
            assert int(each.answer) == int(left) + int(right)
        if " Give the " in each.prompt:
            record, key = each.prompt.removesuffix(".").split(" Give the ")
            assert json.loads(record)[key] == each.answer
