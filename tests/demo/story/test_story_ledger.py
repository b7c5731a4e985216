"""What the story remembers of what came back."""

import random

from demo.story.ledger import Answered, Failure, Ledger, mean_of, served


def answers(values: list[float], version: int = 2) -> list[Answered]:
    """One answer a second of these qualities."""
    return [Answered(float(at), "before", "web", version, "stable", value, 0.1) for at, value in enumerate(values)]


def test_an_interval_holds_the_mean_as_often_as_it_says() -> None:
    """In about 95 of 100 draws of sixty answers that are right or wrong."""
    rng = random.Random(1)
    held = 0
    for _ in range(400):
        mean = mean_of(answers([float(rng.random() < 0.7) for _ in range(60)]))
        held += mean.low <= 0.7 <= mean.high
    assert 0.9 <= held / 400 <= 0.99


def test_every_request_counts_once() -> None:
    """Answers, the desk's word on them, and what failed."""
    ledger = Ledger(answers([1.0, 0.0]), [Failure(1.0, "feedback", "late")], said=1)
    assert ledger.requests == 4
    assert served([*answers([1.0]), *answers([1.0, 1.0], version=3)]) == {2: 1, 3: 2}


def test_the_course_leaves_out_a_rest_that_is_too_small() -> None:
    """Means of so many answers each; nothing without answers."""
    course = Ledger(answers([1.0] * 10 + [0.0] * 10 + [1.0] * 3)).course(10)
    assert [(mean.n, mean.mean, mean.at) for mean in course] == [(10, 1.0, 4.5), (10, 0.0, 14.5)]
    assert Ledger().course(10) == []
    assert Ledger().recent(10) is None
