"""Whether more than one key says that quality was lost."""

import random
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.judging.quality import QualityJob
from monitors.judging.scoring import ScoringJob
from monitors.judging.watched import WatchedTest
from monitors.loop.voices import Agreement, Fall, Voice, agree, agreement, agreement_of, fall_of
from monitors.tables import RequestRow
from registry.catalog import Adapter
from registry.monitoring import QualityRule
from tests.monitors.judging.rows import NOW, catalog, observe, say, workshop
from tests.monitors.loop.traffic import log, request, row_id
from tests.monitors.records import record

RULE = QualityRule(level=0.9, drop=0.05, alarm_every=1000)
THRESHOLD = 0.85
FALL = Fall(WatchedTest(2, "feedback", "level"), THRESHOLD, 0.05)


def sessions(seed: int, n: int, means: dict[str, float]) -> list[Voice]:
    """Sessions of these keys in turn, each right so often."""
    rng = random.Random(seed)
    keys = list(means)
    return [Voice(float(rng.random() < means[key]), frozenset([key])) for key in (keys * n)[: n * len(keys)]]


def test_all_keys_say_so() -> None:
    """Then it does not matter which of them is left out."""
    fallen = sessions(1, 40, {"web": 0.95, "app": 0.95}) + sessions(2, 60, {"web": 0.4, "app": 0.5})
    assert agree(fallen, THRESHOLD, 0.05, ()) == Agreement(agreed=True)


def test_one_key_alone_is_not_enough_however_much_it_says() -> None:
    """Of 100 worlds in which the others are content, no more than alpha allows agree with it at any look."""
    wrong = 0
    for seed in range(100):
        voices = sessions(seed, 150, {"loud": 0.0, "loud too": 0.0, "web": 0.9, "app": 0.9})
        one = [Voice(each.value, frozenset(["loud"])) if "loud too" in each.keys else each for each in voices]
        wrong += any(agree(one[:looked], THRESHOLD, 0.05, ()).agreed for looked in range(100, len(one) + 1, 100))
    assert wrong <= 5


def test_the_lone_voice_is_named_and_may_be_trusted() -> None:
    """A backend that speaks for all of its users is one key."""
    alone = sessions(3, 100, {"backend": 0.4})
    assert agree(alone, THRESHOLD, 0.05, ()) == Agreement(lone="backend")
    assert agree(alone, THRESHOLD, 0.05, ("backend",)) == Agreement(agreed=True)
    assert agree([], THRESHOLD, 0.05, ()) == Agreement()


def test_what_recovered_is_no_loss() -> None:
    """The alarm stands, but what it was about is over."""
    before = sessions(4, 50, {"web": 0.3, "app": 0.3})
    assert not agree(before + sessions(5, 400, {"web": 1.0, "app": 1.0}), THRESHOLD, 0.05, ()).agreed


def test_a_session_of_two_keys_is_left_out_with_each() -> None:
    """Else a key would get a second voice by speaking in another's session."""
    both = [Voice(each.value, frozenset(["loud", "web"])) for each in sessions(6, 100, {"loud": 0.0})]
    assert agree(both, THRESHOLD, 0.05, ()).lone in ("loud", "web")


def test_it_is_not_the_loudest_key_alone_that_is_left_out() -> None:
    """What a quieter one says may be all that shows a loss."""
    mild = [Voice(float(number % 5 > 0), frozenset(["mild"])) for number in range(400)]
    sharp = [Voice(0.0, frozenset(["sharp"])) for _ in range(18)]
    assert agree(mild + sharp, THRESHOLD, 0.05, ()) == Agreement(lone="sharp")


def test_of_many_keys_the_loudest_are_left_out() -> None:
    """However many others there are that are content."""
    content = [Voice(float(number % 10 > 0), frozenset([f"key-{number % 30}"])) for number in range(300)]
    loud = [Voice(0.0, frozenset(["loud"])) for _ in range(100)]
    assert agree([*loud[:1], *content, *loud], THRESHOLD, 0.05, ()) == Agreement(lone="loud")


@pytest.mark.parametrize(
    ("against", "flipped", "value", "unit"),
    [("level", False, 0.25, 0.25), ("base", False, -0.5, 0.25), ("support@2-00000002", True, 0.5, 0.25)],
)
def test_sessions_are_seen_as_the_watch_sees_them(against: str, flipped: bool, value: float, unit: float) -> None:
    """Scores as they are, differences in [0, 1], and the incumbent's from the stable version's side."""
    fall = Fall(WatchedTest(2, "feedback", against, flipped), THRESHOLD, 0.05)
    assert fall.unit(value) == unit


async def test_keys_are_found_by_what_was_said_and_asked(database: AsyncEngine, tmp_path: Path) -> None:
    """Of named sessions and single requests alike; end users of one key are one voice."""
    adapter = await fallen(database, tmp_path, {"web": 0.0, "app": 0.0})
    async with database.connect() as connection:
        fall = await fall_of(connection, adapter)
        assert fall is not None
        assert fall.threshold == pytest.approx(THRESHOLD)
        assert await agreement(connection, adapter, fall, ()) == Agreement(agreed=True)


async def test_end_users_of_one_key_are_one_voice(database: AsyncEngine, tmp_path: Path) -> None:
    """It may name any number of them."""
    adapter = await fallen(database, tmp_path, {"loud": 0.0})
    async with database.connect() as connection:
        fall = await fall_of(connection, adapter)
        assert fall is not None
        assert await agreement(connection, adapter, fall, ()) == Agreement(lone="loud")
        assert await agreement(connection, adapter, fall, ("loud",)) == Agreement(agreed=True)


async def test_who_judged_a_request_counts_and_not_who_sent_it(database: AsyncEngine) -> None:
    """A backend sends the requests of all."""
    await log(database, [request(number, key_id="backend") for number in range(80)])
    for number in range(80):
        await say(database, row_id(number), id=f"said-{number}", key_id=("web", "app")[number % 2], score=0.0)
    fed = [(f"request {request(number)['request_id']}", 0.0) for number in range(80)]
    async with database.connect() as connection:
        assert await agreement_of(connection, "support", FALL, fed, ()) == Agreement(agreed=True)


async def test_another_adapter_s_sessions_are_others(database: AsyncEngine) -> None:
    """Also where they have the same names."""
    for number in range(40):
        await say(database, f"r{number}", session=f"s{number}", key_id="loud", score=0.0)
        await say(database, f"o{number}", session=f"s{number}", key_id="another", score=0.0, adapter="other")
    fed = [(f"s{number}", 0.0) for number in range(40)]
    async with database.connect() as connection:
        assert await agreement_of(connection, "support", FALL, fed, ()) == Agreement(lone="loud")


async def test_the_newest_sessions_are_looked_at(database: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there were before, in which all was well."""
    monkeypatch.setattr("monitors.loop.voices.NEWEST", 60)
    await observe(database, [1.0] * 60 + [0.0] * 60)
    for number in range(120):
        await say(database, f"r{number}", session=str(number), key_id=("web", "app")[number % 2])
    async with database.connect() as connection:
        assert await agreement(connection, catalog().adapters["support"], FALL, ()) == Agreement(agreed=True)


async def fallen(database: AsyncEngine, folder: Path, scores: dict[str, float]) -> Adapter:
    """`support` after bad scores by these keys, half of them in named sessions, with its alarm."""
    table = RequestRow.__table__  # type: ignore[attr-defined]
    for number in range(120):
        key = list(scores)[number % len(scores)]
        session = f"s{number}" if number % 4 < 2 else None
        row_id, asked = f"r{number:03}", f"req-{number}"
        fields = record(asked, key_id=key, session=session)
        values = {name: getattr(fields, name) for name in RequestRow.model_fields if hasattr(fields, name)}
        values |= {"id": row_id, "started_at": NOW}
        async with database.begin() as connection:
            await connection.execute(table.insert(), values)
        await say(
            database, row_id, key_id=key, session=session, end_user=f"u{number}", score=scores[key], request_id=asked
        )
    shop, known = workshop(database, folder), catalog(quality=RULE)
    await ScoringJob(shop).run(known, NOW)
    await QualityJob(shop).run(known, NOW)
    return known.adapters["support"]
