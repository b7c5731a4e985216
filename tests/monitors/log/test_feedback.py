"""What is kept of feedback, and what it is worth as a number."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.log.feedback import (
    Reference,
    Said,
    Thumb,
    add_feedback,
    feedback_of_client,
    find_answered,
    list_feedback,
    value_of,
)
from tests.monitors.ledger import Ledger
from tests.monitors.records import NOVEMBER, record

NOW = datetime(2026, 11, 4, tzinfo=UTC)


@pytest.fixture
async def ledger(database: AsyncEngine) -> Ledger:
    """Requests of two keys under the same id, and what no client saw the answer of."""
    found = Ledger(database)
    usual = {"completion_id": "chatcmpl-1", "session": "s", "end_user": "u", "pool": "tiny"}
    await found.add(
        record("r", started_at=NOVEMBER, version=1, **usual),
        record("r", started_at=NOVEMBER + 2, version=2, **usual),
        record("r", started_at=NOVEMBER + 1, version=3, **usual),
        record("r", started_at=NOVEMBER + 3, version=4, key_id="key-2", **usual),
        record("r", started_at=NOVEMBER + 4, key_id=None, variant="shadow", **usual),
        record("r", started_at=NOVEMBER + 5, variant="evaluation", **usual),
        record("r", started_at=NOVEMBER + 6, variant=None, status=429, error="rate_limit_exceeded"),
        record("r", started_at=NOVEMBER + 7, status=503, error="overloaded", **usual),
    )
    return found


@pytest.mark.parametrize(
    ("thumb", "score", "value"),
    [
        ("up", None, 1.0),
        ("down", None, 0.0),
        (None, 0.25, 0.25),
        ("up", 0.0, 0.0),
        ("down", 1, 1.0),
        (None, None, None),
    ],
)
def test_a_feedback_is_worth_its_score_or_else_its_thumb(
    thumb: Thumb | None, score: float | None, value: float | None
) -> None:
    """A comment or a correction alone is no number."""
    assert value_of(Said(thumb, score, "a comment", "a correction")) == value


async def test_the_newest_answer_of_the_key_is_meant(ledger: Ledger) -> None:
    """Not another key's, not a shadow or an evaluation, and nothing that was refused."""
    for reference in (Reference("r", None, "key-1"), Reference(None, "chatcmpl-1", "key-1")):
        found = await find_answered(ledger.engine, reference)
        assert found is not None
        assert (found.version, found.variant, found.base, found.session) == (2, "stable", "tiny", "s")
    found = await find_answered(ledger.engine, Reference("r"))
    assert found is not None
    assert found.version == 4
    for nothing in (Reference("R", None, "key-1"), Reference(None, "r", "key-1"), Reference("r", None, "key-3")):
        assert await find_answered(ledger.engine, nothing) is None


async def test_feedback_is_kept_once_under_a_clients_id(ledger: Ledger) -> None:
    """Another key may use the same id, and without one all are kept."""
    answered = await find_answered(ledger.engine, Reference("r", None, "key-1"))
    assert answered is not None
    said = Said("up", 0.5, "good", "better", client_id="mine")
    stored = await add_feedback(ledger.engine, answered, said, key_id="key-1", now=NOW)
    assert stored is not None
    assert stored.said == said
    assert await feedback_of_client(ledger.engine, "key-1", "mine") == stored
    assert await add_feedback(ledger.engine, answered, said, key_id="key-1", now=NOW) is None
    assert await add_feedback(ledger.engine, answered, said, key_id="key-2", now=NOW) is not None
    for _ in range(2):
        assert await add_feedback(ledger.engine, answered, Said("up"), key_id="key-1", now=NOW) is not None
    assert len(await list_feedback(ledger.engine)) == 4


async def test_feedback_is_listed_newest_first_and_in_pages(ledger: Ledger) -> None:
    """Of all, an adapter, a version, or since a moment."""
    answered = await find_answered(ledger.engine, Reference("r", None, "key-1"))
    assert answered is not None
    for minute in range(5):
        now = NOW + timedelta(minutes=minute)
        assert await add_feedback(ledger.engine, answered, Said(score=minute / 10), key_id="key-1", now=now)
    first = await list_feedback(ledger.engine, limit=3)
    rest = await list_feedback(ledger.engine, limit=3, before=first[-1].id)
    assert [one.score for one in first + rest] == [0.4, 0.3, 0.2, 0.1, 0.0]
    assert len(await list_feedback(ledger.engine, adapter="support", version=2, since=NOW + timedelta(minutes=2))) == 3
    assert await list_feedback(ledger.engine, adapter="other") == []
    assert await list_feedback(ledger.engine, version=1) == []
