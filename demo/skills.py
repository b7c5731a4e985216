"""What the base model learns before it sees any labelled ticket: small skills, and a weak, coarse triage.

Plain Python, the same for the same seed. The skills also serve as replay while an adapter is trained, and to test
later what an adapter has forgotten.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from demo.tickets import FIELDS, Ticket, add_typo, write_ticket
from demo.wording import PRODUCTS, SLOTS, TRAINING

__all__ = ["Example", "pretraining", "skills"]

# The share of pre-training examples that are weak triage.
TRIAGE_SHARE = 0.16

# An old rule-based desk labelled these: its intents are coarse, it knows two urgencies, and it copies any product.
COARSE_INTENTS = {
    "refund": "payment",
    "billing": "payment",
    "cancel": "order",
    "delivery": "order",
    "exchange": "order",
    "login": "account",
    "bug": "problem",
    "how_to": "question",
}
COARSE_URGENCIES = {"high": "high", "medium": "low", "low": "low"}

# The desk's products and others, so that naming a product is copying a word and not knowing a list.
NOUNS = [
    *PRODUCTS,
    "lamp",
    "vacuum",
    "kettle",
    "heater",
    "monitor",
    "keyboard",
    "mouse",
    "headset",
    "charger",
    "scanner",
    "projector",
    "toaster",
    "blender",
    "fridge",
    "oven",
    "fan",
    "radio",
    "drone",
    "laptop",
    "phone",
    "scale",
    "alarm",
]
COLOURS = ["red", "blue", "green", "black", "white", "grey", "yellow", "brown"]
PLACES = ["kitchen", "garden", "office", "garage", "hall", "attic", "cellar", "shop"]
OTHER_WORDS = ["box", "letter", "table", "chair", "door", "window", "cable", "bag", "key", "book", "cup", "plate"]
WORDS = [*NOUNS, *COLOURS, *PLACES, *OTHER_WORDS]
DAYS = SLOTS["day"]


@dataclass(frozen=True)
class Example:
    """One turn: what the user says and what the assistant should answer."""

    prompt: str
    answer: str


def pretraining(n: int, seed: int) -> list[Example]:
    """`n` examples for the base model: mostly skills, and `TRIAGE_SHARE` of weak triage."""
    rng = random.Random(f"pretraining {seed}")
    return [_weak_triage(rng) if rng.random() < TRIAGE_SHARE else _skill(rng) for _ in range(n)]


def skills(n: int, seed: int) -> list[Example]:
    """`n` examples of the skills alone."""
    rng = random.Random(f"skills {seed}")
    return [_skill(rng) for _ in range(n)]


def _skill(rng: random.Random) -> Example:
    return rng.choice(SKILLS)(rng)


def _weak_triage(rng: random.Random) -> Example:
    noun = rng.choice(NOUNS)
    wording = replace(TRAINING, products={noun: (noun, noun, f"{rng.choice(COLOURS)} {noun}")})
    ticket = write_ticket(wording, rng)
    # Typos here, and not in the tickets, let an adapter cope with them later.
    message = add_typo(ticket.message, rng) if rng.random() < 0.2 else ticket.message
    return Example(message, _coarse_answer(ticket))


def _coarse_answer(ticket: Ticket) -> str:
    coarse = (COARSE_INTENTS[ticket.intent], ticket.product, COARSE_URGENCIES[ticket.urgency])
    return _json(dict(zip(FIELDS, coarse, strict=True)))


def _json(value: dict[str, str]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _words(rng: random.Random, low: int = 2, high: int = 5) -> list[str]:
    return rng.sample(WORDS, rng.randint(low, high))


def _record(rng: random.Random) -> dict[str, str]:
    values = {
        "name": rng.choice(SLOTS["name"]),
        "city": rng.choice(SLOTS["city"]),
        "item": rng.choice(NOUNS),
        "colour": rng.choice(COLOURS),
        "room": rng.choice(PLACES),
        "day": rng.choice(DAYS),
    }
    keys = rng.sample(list(values), rng.randint(2, 4))
    return {key: values[key] for key in keys}


def _copy(rng: random.Random) -> Example:
    text = " ".join(_words(rng))
    return Example(f"{rng.choice(('Repeat', 'Copy', 'Say'))}: {text}", text)


def _first_or_last(rng: random.Random) -> Example:
    words = _words(rng)
    which, answer = rng.choice((("First", words[0]), ("Last", words[-1])))
    return Example(f"{which} word of: {' '.join(words)}", answer)


def _reverse(rng: random.Random) -> Example:
    words = _words(rng, 2, 4)
    return Example(f"Reverse: {' '.join(words)}", " ".join(reversed(words)))


def _upper(rng: random.Random) -> Example:
    word = rng.choice(WORDS)
    return Example(f"In capitals: {word}", word.upper())


def _count(rng: random.Random) -> Example:
    words = _words(rng, 1, 6)
    return Example(f"How many words: {' '.join(words)}", str(len(words)))


def _extract(rng: random.Random) -> Example:
    record = _record(rng)
    key = rng.choice(list(record))
    text = ", ".join(f"{name}: {value}" for name, value in record.items())
    return Example(f"{text}. What is the {key}?", record[key])


def _to_json(rng: random.Random) -> Example:
    record = _record(rng)
    text = ", ".join(f"{name} {value}" for name, value in record.items())
    return Example(f"As JSON: {text}", _json(record))


def _from_json(rng: random.Random) -> Example:
    record = _record(rng)
    key = rng.choice(list(record))
    return Example(f"{_json(record)} Give the {key}.", record[key])


def _mentions(rng: random.Random) -> Example:
    words = _words(rng, 3, 5)
    asked = rng.choice(words) if rng.random() < 0.5 else rng.choice(WORDS)
    return Example(f"Is {asked} in this list: {' '.join(words)}?", "yes" if asked in words else "no")


def _which_product(rng: random.Random) -> Example:
    example = _weak_triage(rng)
    return Example(f"Which product? {example.prompt}", json.loads(example.answer)["product"])


def _how_urgent(rng: random.Random) -> Example:
    example = _weak_triage(rng)
    return Example(f"Is it urgent? {example.prompt}", "yes" if '"high"' in example.answer else "no")


def _add(rng: random.Random) -> Example:
    left, right = rng.randint(0, 9), rng.randint(0, 9)
    return Example(f"{left} + {right} =", str(left + right))


def _next_day(rng: random.Random) -> Example:
    at = rng.randrange(len(DAYS))
    return Example(f"Which day comes after {DAYS[at]}?", DAYS[(at + 1) % len(DAYS)])


def _replace(rng: random.Random) -> Example:
    words = _words(rng, 2, 4)
    old, new = rng.choice(words), rng.choice(WORDS)
    changed = [new if word == old else word for word in words]
    return Example(f"Replace {old} by {new}: {' '.join(words)}", " ".join(changed))


SKILLS: tuple[Callable[[random.Random], Example], ...] = (
    _copy,
    _first_or_last,
    _reverse,
    _upper,
    _count,
    _extract,
    _to_json,
    _from_json,
    _mentions,
    _which_product,
    _how_urgent,
    _add,
    _next_day,
    _replace,
)
