"""The set that shows what an adapter has forgotten."""

import json
from collections import Counter

from demo import BASE_DIR
from demo.recipe import Sizes
from demo.retention import FILE, ROWS, _line, examples
from demo.skills import pretraining
from tuner.evaluation.sets import read_retention


def test_the_shipped_set_is_what_the_script_makes() -> None:
    """To the byte, so that nobody has edited it by hand; enough rows, and of many skills."""
    made = examples()
    assert FILE.read_text() == "".join(_line(each) + "\n" for each in made)
    assert len(made) == ROWS
    beginnings = Counter(each.prompt.split()[0] for each in made)
    assert {"Repeat:", "Reverse:", "First", "How", "Which", "Replace"} <= beginnings.keys()


def test_the_base_model_saw_none_of_it() -> None:
    """By the recipe's own figures, which are those of the base model that ships and of the next one."""
    recipe = json.loads((BASE_DIR.parent / "recipe.json").read_text())
    assert recipe["base"]["examples"] == recipe["sizes"]["examples"] == Sizes().examples
    seen = {each.prompt for each in pretraining(recipe["base"]["examples"], recipe["seed"])}
    assert not seen & {each.prompt for each in examples()}


def test_the_gate_can_read_it() -> None:
    """Every row has a reference and the exact match as its scorer."""
    golden = read_retention(FILE.read_bytes())
    assert len(golden.rows) == ROWS
    assert all(row.reference and [each.scorer for each in row.choices(())] == ["exact_match"] for row in golden.rows)
