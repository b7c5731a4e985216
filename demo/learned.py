"""What the shipped versions were trained on: the rows that the recipe wrote for them, written again. Plain Python."""

import json
from dataclasses import dataclass

from demo import BASE_DIR, Adapter
from demo.skills import skills
from demo.tickets import training

__all__ = ["Learned", "learned"]

RECORD = BASE_DIR.parent / "recipe.json"


@dataclass(frozen=True)
class Learned:
    """One row: what the user says, what the assistant should answer, and the ticket's intent, if it is a ticket."""

    prompt: str
    answer: str
    label: str | None = None


def learned(adapter: Adapter) -> list[Learned]:
    """The rows of a shipped version: its tickets, then the base's skills."""
    record = json.loads(RECORD.read_text())
    seed, sizes, version = record["seed"], record["sizes"], str(adapter.version)
    tickets = training(sizes["tickets"][version], seed)
    rows = [Learned(each.message, each.answer, each.intent) for each in tickets]
    return rows + [Learned(each.prompt, each.answer) for each in skills(sizes["replay"][version], seed)]
