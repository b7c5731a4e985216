"""The tickets of after the shift."""

from demo.shifted import SHIFTED, shifted
from demo.wording import TRAINING


def test_the_same_seed_gives_the_same_tickets() -> None:
    """And another one others."""
    assert shifted(50, seed=1) == shifted(50, seed=1) != shifted(50, seed=2)


def test_three_in_five_are_about_what_training_never_had() -> None:
    """Their products and intents both; the others are as before."""
    tickets = shifted(2000, seed=1)
    new = [ticket for ticket in tickets if ticket.intent in SHIFTED.intents]
    assert 0.55 < len(new) / len(tickets) < 0.65
    assert all(ticket.product in SHIFTED.products for ticket in new)
    assert not SHIFTED.intents.keys() & TRAINING.intents.keys()
    assert not SHIFTED.products.keys() & TRAINING.products.keys()
    assert {ticket.intent for ticket in tickets} == SHIFTED.intents.keys() | TRAINING.intents.keys()


def test_messages_are_whole_and_labels_known() -> None:
    """The urgencies are the old ones, so that they are scored alike; nothing is left to fill in."""
    for ticket in shifted(500, seed=2):
        assert ticket.urgency in TRAINING.urgencies
        assert not set("{}|") & set(ticket.message)
