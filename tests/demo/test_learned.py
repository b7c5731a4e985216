"""What the shipped versions were trained on."""

import json

import demo
from demo.learned import RECORD, learned
from demo.skills import skills
from demo.tickets import training


def test_it_is_what_the_recipe_wrote() -> None:
    """As many tickets and skills as the record of the run that made the weights says, by its seed."""
    record = json.loads(RECORD.read_text())
    for adapter in demo.ADAPTERS:
        sizes = (record["sizes"]["tickets"][str(adapter.version)], record["sizes"]["replay"][str(adapter.version)])
        assert sizes == (
            record[f"support@{adapter.version}"]["tickets"],
            record[f"support@{adapter.version}"]["replay"],
        )
        rows = learned(adapter)
        assert [(row.prompt, row.answer, row.label) for row in rows if row.label] == [
            (each.message, each.answer, each.intent) for each in training(sizes[0], record["seed"])
        ]
        assert [(row.prompt, row.answer) for row in rows if not row.label] == [
            (each.prompt, each.answer) for each in skills(sizes[1], record["seed"])
        ]
