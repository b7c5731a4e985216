"""Tickets of another kind: what traffic may have become after an adapter was trained. Plain Python, as `tickets`.

Two in five are as before. The others are about products and concerns that the training tickets never had, in other
words, and many with typos.
"""

import random

from demo.tickets import Ticket, add_typo, write_ticket
from demo.wording import HELD_OUT, Wording

__all__ = ["SHIFTED", "shifted"]

OLD_SHARE = 0.4
_TYPO_CHANCE = 0.5

SHIFTED = Wording(
    products={
        "ebike": ("e-bike", "electric bike", "ebike"),
        "vacuum": ("vacuum", "robot vacuum", "vacuum robot"),
        "charger": ("charger", "wall charger", "fast charger"),
        "headset": ("headset", "wireless headset"),
        "scale": ("scale", "bathroom scale"),
        "lock": ("door lock", "smart lock"),
    },
    intents={
        "warranty": (
            "Is the {product} still under warranty after (two|three) years?",
            "I want to make a warranty claim for (my|the) {product}.",
            "How long is the warranty (of|on) the {product}?",
            "My {product} failed one month after the warranty ended, what can you do?",
        ),
        "privacy": (
            "Which data does the {product} send to you, and can you delete mine?",
            "Please delete all recordings and my data of the {product}.",
            "I ask for a copy of all data that my {product} has collected about me.",
            "Does the {product} listen when I am not using it?",
        ),
        "reseller": (
            "We run a shop in {city} and would like to sell the {product}.",
            "What would fifty pieces of the {product} cost for a dealer?",
            "Do you have a price list of the {product} for resellers?",
        ),
        "repair": (
            "Where can I get spare parts for (my|the) {product}?",
            "Do you have a workshop in {city} that mends the {product}?",
            "I would like to fix my {product} myself, which parts do I need?",
        ),
    },
    urgencies={
        "high": ("Need this asap!!", "My boss is on my back about it.", "Every hour costs us money."),
        "medium": ("", "Sometime before {day} pls.", "Would love to hear back in a few days."),
        "low": ("Just wondering.", "Whenever.", "No pressure at all from my side."),
    },
)


def shifted(n: int, seed: int) -> list[Ticket]:
    """`n` tickets of the traffic after the shift."""
    rng = random.Random(f"shifted {seed}")
    return [_write(rng) for _ in range(n)]


def _write(rng: random.Random) -> Ticket:
    if rng.random() < OLD_SHARE:
        return write_ticket(HELD_OUT, rng)
    ticket = write_ticket(SHIFTED, rng)
    if rng.random() >= _TYPO_CHANCE:
        return ticket
    return Ticket(add_typo(ticket.message, rng), ticket.intent, ticket.product, ticket.urgency)
