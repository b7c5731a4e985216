"""Customers' tickets with their labels, and the score of an answer. Plain Python, the same for the same seed."""

import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from demo.wording import CLOSINGS, CONTEXTS, HELD_OUT, OPENINGS, SLOTS, TRAINING, Wording

__all__ = ["FIELDS", "Score", "Ticket", "add_typo", "held_out", "score", "training", "write_ticket"]

FIELDS = ("intent", "product", "urgency")

_CHOICE = re.compile(r"\(([^()]*)\)")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Ticket:
    """One customer's message and what the support desk would note about it."""

    message: str
    intent: str
    product: str
    urgency: str

    @property
    def answer(self) -> str:
        """The right answer: compact JSON with the keys of `FIELDS` in their order."""
        return json.dumps({name: getattr(self, name) for name in FIELDS}, separators=(",", ":"))


@dataclass(frozen=True)
class Score:
    """How good one answer is; `correct` holds each field of `FIELDS`."""

    correct: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(FIELDS, False))
    exact: bool = False
    valid: bool = False

    @property
    def fields(self) -> float:
        """The share of right fields, in [0, 1]."""
        return sum(self.correct.values()) / len(FIELDS)


def training(n: int, seed: int) -> list[Ticket]:
    """`n` tickets to train on, worded as in `wording.TRAINING`."""
    return _write_tickets(TRAINING, n, random.Random(f"training {seed}"))


def held_out(n: int, seed: int) -> list[Ticket]:
    """`n` tickets to test on; none shares its sentences about intent and urgency with a training ticket."""
    return _write_tickets(HELD_OUT, n, random.Random(f"held out {seed}"))


def score(answer: str, ticket: Ticket) -> Score:
    """Hold an answer against the ticket's labels. What is not a JSON object scores nothing."""
    try:
        given = json.loads(answer)
    except ValueError:
        return Score()
    if not isinstance(given, dict):
        return Score()
    correct = {name: given.get(name) == getattr(ticket, name) for name in FIELDS}
    return Score(correct=correct, exact=answer == ticket.answer, valid=True)


def write_ticket(wording: Wording, rng: random.Random, avoid: Iterable[str] = ()) -> Ticket:
    """One ticket with labels drawn evenly; `avoid` names products to leave out."""
    intent = rng.choice(list(wording.intents))
    product = rng.choice([name for name in wording.products if name not in set(avoid)])
    urgency = rng.choice(list(wording.urgencies))
    core = _fill(rng.choice(wording.intents[intent]), rng, product=rng.choice(wording.products[product]))
    message = _assemble(core, _fill(rng.choice(wording.urgencies[urgency]), rng), rng)
    return Ticket(_vary(message, rng), intent, product, urgency)


def add_typo(text: str, rng: random.Random) -> str:
    """Swap, drop or double one letter of `text`, as a hurried customer does."""
    letters = [i for i in range(1, len(text) - 1) if text[i].isalpha() and text[i + 1].isalpha()]
    if not letters:
        return text
    at = rng.choice(letters)
    before, pair, after = text[:at], text[at : at + 2], text[at + 2 :]
    return before + rng.choice((pair[::-1], pair[1], pair[0] + pair)) + after


def _write_tickets(wording: Wording, n: int, rng: random.Random) -> list[Ticket]:
    return [write_ticket(wording, rng) for _ in range(n)]


def _fill(template: str, rng: random.Random, product: str = "") -> str:
    """Draw the choices of a template, then fill its slots."""
    drawn = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), template)
    return _SLOT.sub(lambda match: product if match[1] == "product" else _slot(match[1], rng), drawn)


def _slot(name: str, rng: random.Random) -> str:
    if name == "order":
        return str(rng.randint(10_000, 99_999))
    if name == "amount":
        return f"{rng.randint(5, 250)} euros"
    return rng.choice(SLOTS[name])


def _assemble(core: str, urgency: str, rng: random.Random) -> str:
    """Put what matters between an opening, some context and a closing, each of which may be missing."""
    first, second = (urgency, core) if rng.random() < 0.2 else (core, urgency)
    parts = [
        _sometimes(OPENINGS, 0.5, rng),
        _sometimes(CONTEXTS, 0.25, rng),
        first,
        second,
        _sometimes(CLOSINGS, 0.3, rng),
    ]
    return " ".join(part for part in parts if part)


def _sometimes(templates: Sequence[str], chance: float, rng: random.Random) -> str:
    return _fill(rng.choice(templates), rng) if rng.random() < chance else ""


def _vary(message: str, rng: random.Random) -> str:
    """Some customers write in lower case, and some leave out the last full stop."""
    style = rng.random()
    if style < 0.15:
        return message.lower()
    return message.rstrip(".") if style < 0.25 else message
