"""Which replica serves a request: filter, score, pick, as plain functions over one immutable snapshot.

The rules, in order:

1. Filter: the replicas of the request's pool that can serve it now and were not tried before. One that is still
   getting its versions serves only what it has, unless there is no other.
2. Homes first: the version's home replicas, as long as one of them is loaded below the bound; else all (spill over).
3. Of these, those with the version resident; else those where it is being loaded; else any.
4. Of these, the session's own one (its prefix is in that cache), unless it is far busier than another; else the less
   loaded one of two drawn by the request's id (the power of two choices; Mitzenmacher 2001).
"""

from collections.abc import Callable, Sequence

import msgspec

from gateway.engines.placement import fraction, homes, ranked

AFFINITY_SLACK = 4
"""A session's own replica may have so many more requests than the least loaded one before the session moves."""


class Seen(msgspec.Struct, frozen=True):
    """One replica as the picture shows it.

    Attributes:
        answering: it takes requests.
        settled: it has got its versions, so it may be asked to load more.
        load: requests that it has, by this gateway's count and the engine's.
        resident: engine names that are loaded and proven.
        loading: engine names that are being loaded.
    """

    id: str
    pool: str
    answering: bool = True
    settled: bool = True
    load: int = 0
    resident: frozenset[str] = frozenset()
    loading: frozenset[str] = frozenset()


class Snapshot(msgspec.Struct, frozen=True):
    """All replicas at one moment, and what the rules need to know of the settings."""

    replicas: tuple[Seen, ...]
    homes: int = 0
    bound: int = 32


class Need(msgspec.Struct, frozen=True):
    """What a request needs: `name` is the version's engine name, None for the base model."""

    pool: str
    name: str | None
    request: str
    session: str | None = None
    tried: frozenset[str] = frozenset()


class Choice(msgspec.Struct, frozen=True):
    """The replica that was picked, and why."""

    replica: str
    reason: str


def pick(snapshot: Snapshot, need: Need) -> Choice | None:
    """The replica to use; None if none can serve now."""
    found = candidates(snapshot, need)
    if not found:
        return None
    near, place = near_home(found, snapshot, need)
    best, residency = most_resident(near, need)
    chosen, why = least_loaded(best, need)
    return Choice(chosen.id, f"{place}, {residency}, {why}")


def candidates(snapshot: Snapshot, need: Need) -> Sequence[Seen]:
    """Those that can serve now. What was tried before is tried again only if there is nothing else."""
    answering = [one for one in snapshot.replicas if one.pool == need.pool and one.answering]
    fresh = [one for one in answering if one.id not in need.tried] or answering
    return [one for one in fresh if one.settled or need.name is None or need.name in one.resident] or fresh


def near_home(found: Sequence[Seen], snapshot: Snapshot, need: Need) -> tuple[Sequence[Seen], str]:
    """The version's homes among those found, unless they are all too busy. The base model is at home everywhere."""
    if need.name is None:
        return found, "any"
    at_home = home_ids(snapshot, need.pool, need.name)
    free = [one for one in found if one.id in at_home and one.load < snapshot.bound]
    if free:
        return free, "home"
    return found, "spilled over" if any(one.id in at_home for one in found) else "no home answers"


def home_ids(snapshot: Snapshot, pool: str, name: str) -> frozenset[str]:
    """The home replicas of an engine name, those that are down included: a short outage moves nothing."""
    return homes(name, frozenset(one.id for one in snapshot.replicas if one.pool == pool), snapshot.homes)


def most_resident(found: Sequence[Seen], need: Need) -> tuple[Sequence[Seen], str]:
    """Those that have the version; else those that are about to; else all.

    A replica that has it but is loaded to twice the least load of the others, and more than a little, does not count:
    so a hot version spreads.
    """
    if need.name is None:
        return found, "base"
    least = min(one.load for one in found)
    tests: tuple[tuple[str, Callable[[Seen], bool]], ...] = (
        ("resident", lambda one: need.name in one.resident),
        ("loading", lambda one: need.name in one.loading),
    )
    for word, test in tests:
        having = [one for one in found if test(one)]
        if any(one.load <= 2 * least + AFFINITY_SLACK for one in having):
            return having, word
    return found, "to be loaded"


def least_loaded(found: Sequence[Seen], need: Need) -> tuple[Seen, str]:
    """The session's own replica, or the less loaded of two."""
    if len(found) == 1:
        return found[0], "the only one"
    if need.session is not None:
        own = _own(found, need.session)
        if own.load <= min(one.load for one in found) + AFFINITY_SLACK:
            return own, "the session's own"
    first = int(fraction(need.request, "first") * len(found))
    second = int(fraction(need.request, "second") * (len(found) - 1))
    pair = (found[first], found[second if second < first else second + 1])
    return min(pair, key=lambda one: one.load), "less loaded of two"


def _own(found: Sequence[Seen], session: str) -> Seen:
    by_id = {one.id: one for one in found}
    return by_id[ranked(session, by_id)[0]]
