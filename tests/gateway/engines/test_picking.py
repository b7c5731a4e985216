"""Which replica serves a request: a table of scenarios for each policy, and what holds whatever the picture."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.engines.picking import AFFINITY_SLACK, Choice, Need, Seen, Snapshot, home_ids, pick
from gateway.engines.placement import ranked

NAME = "support@1-0a1b2c3d"
HAS = frozenset({NAME})
IDS = ("a", "b", "c", "d")
FIRST, SECOND, THIRD, FOURTH = ranked(NAME, IDS)
"""The replicas, the version's first home first."""


def seen(id: str, load: int = 0, **fields: object) -> Seen:
    """A replica of the pool `tiny` that has the version, unless said otherwise."""
    return replace(Seen(id, "tiny", load=load, resident=HAS), **fields)


def need(request: str = "r-1", **fields: object) -> Need:
    """A request for the version, unless said otherwise."""
    return replace(Need("tiny", NAME, request), **fields)


def shot(*replicas: Seen, homes: int = 0, bound: int = 32) -> Snapshot:
    """A picture of these replicas."""
    return Snapshot(replicas, homes, bound)


NOTHING: frozenset[str] = frozenset()
Row = tuple[str, Snapshot, Need, str | None, str]

FILTER: list[Row] = [
    ("nothing is there", shot(), need(), None, ""),
    ("none answers", shot(seen("a", answering=False)), need(), None, ""),
    ("another pool", shot(seen("a", pool="large")), need(), None, ""),
    ("the one of its pool", shot(seen("a", pool="large"), seen("b", 9)), need(), "b", "home"),
    ("the one that answers", shot(seen("a", answering=False), seen("b", 9)), need(), "b", "home"),
    ("not again what was tried", shot(seen("a"), seen("b", 9)), need(tried=frozenset("a")), "b", "home"),
    ("all tried: again", shot(seen("a")), need(tried=frozenset("a")), "a", "home"),
    (
        "the untried one is down: again",
        shot(seen("a"), seen("b", answering=False)),
        need(tried=frozenset("a")),
        "a",
        "home",
    ),
    ("not one that gets its versions", shot(seen("a", settled=False, resident=NOTHING), seen("b", 9)), need(), "b", ""),
    (
        "but if it has this one",
        shot(seen("a", settled=False), seen("b", 30, resident=NOTHING)),
        need(),
        "a",
        "resident",
    ),
    ("or if there is no other", shot(seen("a", settled=False, resident=NOTHING)), need(), "a", "to be loaded"),
    (
        "or if the other was tried",
        shot(seen("a", settled=False, resident=NOTHING), seen("b")),
        need(tried=frozenset("b")),
        "a",
        "to be loaded",
    ),
    ("the base needs no versions", shot(seen("a", settled=False), seen("b", 9)), need(name=None), "a", "any, base"),
]

HOMES: list[Row] = [
    (
        "the home, though others idle",
        shot(*(seen(each, 5 * (each == FIRST)) for each in IDS), homes=1),
        need(),
        FIRST,
        "home",
    ),
    (
        "the home, though only others have it",
        shot(seen(FIRST, resident=NOTHING), *(seen(each) for each in (SECOND, THIRD, FOURTH)), homes=1),
        need(),
        FIRST,
        "home, to be loaded, the only one",
    ),
    (
        "the second home while the first is down",
        shot(seen(FIRST, answering=False), seen(SECOND), seen(THIRD), seen(FOURTH), homes=2),
        need(),
        SECOND,
        "home",
    ),
    (
        "elsewhere if no home answers",
        shot(seen(FIRST, answering=False), seen(SECOND, 3), homes=1),
        need(),
        SECOND,
        "no home answers",
    ),
    (
        "elsewhere if the home was tried",
        shot(seen(FIRST), seen(SECOND, 3), homes=1),
        need(tried=frozenset({FIRST})),
        SECOND,
        "no home answers",
    ),
    (
        "three homes if none is set",
        shot(seen(FOURTH), seen(THIRD, 4), *(seen(each, answering=False) for each in (FIRST, SECOND))),
        need(),
        THIRD,
        "home",
    ),
    ("the base is at home everywhere", shot(seen("a", 9), seen("b")), need(name=None), "b", "any, base, less loaded"),
]

SPILL: list[Row] = [
    ("not below the bound", shot(seen(FIRST, 31), seen(SECOND), homes=1), need(), FIRST, "home"),
    ("at the bound", shot(seen(FIRST, 32), seen(SECOND), homes=1), need(), SECOND, "spilled over"),
    (
        "to the home that has room first",
        shot(seen(FIRST, 32), seen(SECOND, 31), seen(THIRD), homes=2),
        need(),
        SECOND,
        "home",
    ),
    (
        "to one that must load it, rather than wait",
        shot(seen(FIRST, 32), seen(SECOND, resident=NOTHING), homes=1),
        need(request="r-1"),
        SECOND,
        "spilled over, to be loaded",
    ),
    ("nowhere if there is nothing else", shot(seen(FIRST, 99)), need(), FIRST, "spilled over, resident, the only one"),
]

RESIDENT: list[Row] = [
    ("who has it", shot(seen("a", 4), seen("b", resident=NOTHING)), need(), "a", "home, resident, the only one"),
    (
        "who is loading it",
        shot(seen("a", 4, resident=NOTHING, loading=HAS), seen("b", resident=NOTHING)),
        need(),
        "a",
        "home, loading, the only one",
    ),
    (
        "having before loading",
        shot(seen("a", 4), seen("b", resident=NOTHING, loading=HAS)),
        need(),
        "a",
        "home, resident",
    ),
    (
        "up to twice the least load and a little",
        shot(seen("a", 2 * 3 + AFFINITY_SLACK), seen("b", 3, resident=NOTHING)),
        need(),
        "a",
        "resident",
    ),
    (
        "beyond that it spreads",
        shot(seen("a", 2 * 3 + AFFINITY_SLACK + 1), seen("b", 3, resident=NOTHING)),
        need(),
        "b",
        "home, to be loaded, less loaded of two",
    ),
    (
        "to where it is being loaded, if that is so",
        shot(seen("a", 20), seen("b", 1, resident=NOTHING, loading=HAS), seen("c", resident=NOTHING)),
        need(),
        "b",
        "home, loading, the only one",
    ),
    (
        "one that has it and is free is enough",
        shot(seen("a", 30), seen("b", 1), seen("c", resident=NOTHING)),
        need(),
        "b",
        "home, resident, less loaded of two",
    ),
]

OWN, OTHER = ranked("s-1", ("a", "b"))
SESSION: list[Row] = [
    ("its own", shot(seen("a"), seen("b")), need(session="s-1"), OWN, "the session's own"),
    ("though a little busier", shot(seen(OWN, 4), seen(OTHER)), need(session="s-1"), OWN, "the session's own"),
    ("not if far busier", shot(seen(OWN, 5), seen(OTHER)), need(session="s-1"), OTHER, "less loaded of two"),
    ("not if it is down", shot(seen(OWN, answering=False), seen(OTHER)), need(session="s-1"), OTHER, "the only one"),
    ("not if it was tried", shot(seen("a"), seen("b")), need(session="s-1", tried=frozenset(OWN)), OTHER, "only one"),
    ("not if it lacks the version", shot(seen(OWN, resident=NOTHING), seen(OTHER)), need(session="s-1"), OTHER, "only"),
    ("of the base, too", shot(seen("a"), seen("b")), need(name=None, session="s-1"), OWN, "the session's own"),
]


@pytest.mark.parametrize(
    ("snapshot", "asked", "expected", "words"),
    [
        pytest.param(*row[1:], id=f"{policy}: {row[0]}")
        for policy, rows in (
            ("filter", FILTER),
            ("homes", HOMES),
            ("spill over", SPILL),
            ("residency", RESIDENT),
            ("session", SESSION),
        )
        for row in rows
    ],
)
def test_the_policies(snapshot: Snapshot, asked: Need, expected: str | None, words: str) -> None:
    """Each picture has one right replica, and the reason says why it is."""
    choice = pick(snapshot, asked)
    assert (choice.replica if choice else None) == expected
    assert words in (choice.reason if choice else "")


@pytest.mark.parametrize("busy", IDS[:2])
def test_of_two_the_less_loaded_one_serves(busy: str) -> None:
    """Whatever the request's id, as with two replicas both are drawn."""
    snapshot = shot(*(seen(each, 9 * (each == busy)) for each in IDS[:2]))
    chosen = {pick(snapshot, need(f"r-{number}")) for number in range(50)}
    (other,) = {"a", "b"} - {busy}
    assert chosen == {Choice(other, "home, resident, less loaded of two")}


def test_two_choices_leave_out_the_busiest() -> None:
    """The one of three that is busier than both others is never the less loaded of two; the others share."""
    snapshot = shot(seen("a", 2), seen("b", 2), seen("c", 3))
    counts = Counter(choice.replica for number in range(3_000) if (choice := pick(snapshot, need(f"r-{number}"))))
    assert counts["c"] == 0
    assert min(counts["a"], counts["b"]) > 1_300


@pytest.mark.parametrize("count", [2, 3, 5])
def test_equal_replicas_get_equal_shares(count: int) -> None:
    """Over many requests each gets its share within 3 standard errors."""
    of = 10_000
    snapshot = shot(*(seen(f"engine-{number}") for number in range(count)), homes=count)
    counts = Counter(choice.replica for number in range(of) if (choice := pick(snapshot, need(f"r-{number}"))))
    error = math.sqrt(of * (1 / count) * (1 - 1 / count))
    assert len(counts) == count
    assert all(abs(found - of / count) <= 3 * error for found in counts.values())


def test_sessions_are_spread_evenly() -> None:
    """Each of three replicas is the own one of a third of the sessions, within 3 standard errors."""
    snapshot = shot(seen("a"), seen("b"), seen("c"))
    picks = (pick(snapshot, need("r-1", session=f"s-{number}")) for number in range(9_000))
    counts = Counter(choice.replica for choice in picks if choice)
    assert all(abs(counts[each] - 3_000) <= 3 * math.sqrt(9_000 * 2 / 9) for each in "abc")


def test_a_cold_version_is_not_starved_by_a_hot_one() -> None:
    """When a hot version has filled their common home, the cold one is served elsewhere, loaded if need be."""
    full = seen(FIRST, 200, resident=frozenset({"hot@1-00000000", NAME}))
    idle = seen(SECOND, 1, resident=NOTHING)
    choice = pick(shot(full, idle, homes=1), need())
    assert choice == Choice(SECOND, "spilled over, to be loaded, less loaded of two")


def test_a_home_that_is_down_keeps_its_names() -> None:
    """A short outage moves no version to a new home."""
    up = shot(*(seen(each) for each in IDS), homes=2)
    down = shot(*(seen(each, answering=each != FIRST) for each in IDS), homes=2)
    assert home_ids(up, "tiny", NAME) == home_ids(down, "tiny", NAME) == {FIRST, SECOND}


names = st.none() | st.sampled_from([NAME, "other@2-11111111"])
name_sets = st.frozensets(st.sampled_from([NAME, "other@2-11111111"]))
replicas = st.builds(
    Seen,
    id=st.sampled_from(["a", "b", "c", "d", "e"]),
    pool=st.sampled_from(["tiny", "tiny", "large"]),
    answering=st.booleans(),
    settled=st.booleans(),
    load=st.integers(0, 80),
    resident=name_sets,
    loading=name_sets,
)
snapshots = st.builds(
    Snapshot,
    st.lists(replicas, max_size=5, unique_by=lambda one: one.id).map(tuple),
    st.integers(0, 4),
    st.integers(1, 40),
)
needs = st.builds(
    Need, st.just("tiny"), names, st.text(), st.none() | st.text(), st.frozensets(st.sampled_from("abcde"))
)


@given(snapshots, needs)
def test_only_what_can_serve_is_picked(snapshot: Snapshot, asked: Need) -> None:
    """One of the pool that answers; none only if there is none; what was tried only if all were."""
    choice = pick(snapshot, asked)
    able = {one.id for one in snapshot.replicas if one.pool == "tiny" and one.answering}
    assert (choice is None) == (not able)
    if choice is not None:
        assert choice.replica in (able - asked.tried or able)


@given(snapshots, needs)
def test_the_same_picture_gives_the_same_pick(snapshot: Snapshot, asked: Need) -> None:
    """Nothing is drawn but by the request's id; and a session's own does not hang on how the replicas are listed."""
    choice = pick(snapshot, asked)
    assert choice == pick(snapshot, asked)
    turned = replace(snapshot, replicas=snapshot.replicas[::-1])
    if choice is not None and "own" in choice.reason:
        assert pick(turned, asked) == choice


@given(st.sets(st.text(min_size=1), min_size=2, max_size=6), st.text(), st.integers(0, 50), st.data())
def test_a_session_stays_as_long_as_its_own_replica_is_there(
    ids: set[str], session: str, load: int, data: st.DataObject
) -> None:
    """While loads are equal every request of it goes to one replica; elsewhere only if that goes or is overloaded."""
    everyone = [seen(each, load) for each in sorted(ids)]
    homes = len(ids)
    own = {pick(shot(*everyone, homes=homes, bound=99), need(f"r-{n}", session=session)) for n in range(5)}
    (choice,) = own
    assert choice is not None
    lost = data.draw(st.sampled_from(sorted(ids)))
    rest = pick(
        shot(*(seen(one.id, load, answering=one.id != lost) for one in everyone), homes=homes, bound=99),
        need(session=session),
    )
    assert rest is not None
    assert (rest.replica == choice.replica) == (lost != choice.replica)
    busy = [seen(one.id, load + 5 * (one.id == choice.replica)) for one in everyone]
    moved = pick(shot(*busy, homes=homes, bound=99), need(session=session))
    assert moved is not None
    assert "own" not in moved.reason


@given(snapshots, needs)
def test_a_home_below_the_bound_is_preferred(snapshot: Snapshot, asked: Need) -> None:
    """Where a home can serve and has room, the request goes to such a one."""
    choice = pick(snapshot, replace(asked, name=NAME, tried=NOTHING))
    at_home = home_ids(snapshot, "tiny", NAME)
    able = [one for one in snapshot.replicas if one.pool == "tiny" and one.answering]
    ready = [one for one in able if one.settled or NAME in one.resident]
    free = {one.id for one in ready or able if one.id in at_home and one.load < snapshot.bound}
    if free:
        assert choice is not None
        assert choice.replica in free
        assert choice.reason.startswith("home, ")
