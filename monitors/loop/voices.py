"""Whether more than one key says that quality was lost: what one key alone says begins no training.

The rule. Of the newest sessions that the watch was fed, those since the fall began are taken: from where the scores lie
below the watch's threshold (level - drop) by the largest sum. For each key that is not trusted its sessions are left
out, and what is left is held against 'the mean is at least the threshold' by a betting test at the quality rule's
alpha. Only if that is rejected whichever key is left out was quality lost in the eyes of more than one. Nothing left is
no evidence.

A session's keys are those that gave feedback in it, else those that sent its requests; a session of several keys is
left out with each of them. Keys are what is counted, not end users: a key may name any number of these.
"""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.judging.pairing import LEVEL
from monitors.judging.sequential import BettingTest, to_unit
from monitors.judging.watched import WatchedTest, watched_test
from monitors.tables import EvidenceRow, FeedbackRow, ObservationRow, RequestRow
from registry.catalog import Adapter

NEWEST = 1_000
"""How many of the newest sessions are looked at."""
MOST_KEYS = 20
"""Keys that are left out in turn: those that speak for a loss the most. Without another one more of it is left."""
_AT_ONCE = 200
_REQUEST = "request "
_NOBODY_KNOWN = frozenset([""])
_EVIDENCE = EvidenceRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_FEEDBACK = FeedbackRow.__table__  # type: ignore[attr-defined]
_OBSERVATIONS = ObservationRow.__table__  # type: ignore[attr-defined]
_REQUESTS = RequestRow.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Fall:
    """A watch whose alarm stands: what it was fed, brought into [0, 1], lies below `threshold`."""

    test: WatchedTest
    threshold: float
    alpha: float

    def unit(self, value: float) -> float:
        """An observation as the watch takes it."""
        if self.test.against == LEVEL:
            return value
        return float(to_unit(-value if self.test.flipped else value))


@dataclass(frozen=True, slots=True)
class Voice:
    """What one session says, in [0, 1], and whose it is."""

    value: float
    keys: frozenset[str]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Whether quality was lost whichever key is left out; `lone` is a key without which it was not, if there is one."""

    agreed: bool = False
    lone: str | None = None


async def fall_of(connection: AsyncConnection, adapter: Adapter) -> Fall | None:
    """The alarm of lost quality that stands about the stable version; None if none does."""
    test = watched_test(adapter, adapter.deployment)
    if test is None:
        return None
    state = (await connection.execute(_of(_EVIDENCE, adapter.name, test, _EVIDENCE.c.state))).scalar()
    watch = (state or {}).get("watch")
    if state is None or not watch or not watch["cusum"] or not state["summary"]["watch"]["alarm"]:
        return None
    return Fall(test, watch["cusum"]["level"], adapter.monitoring.quality.alpha)


async def agreement(connection: AsyncConnection, adapter: Adapter, fall: Fall, trusted: Collection[str]) -> Agreement:
    """Whether more than one key says that quality was lost."""
    columns = _OBSERVATIONS.c
    fed = _of(_OBSERVATIONS, adapter.name, fall.test, columns.session, columns.value)
    newest = (await connection.execute(fed.order_by(columns.id.desc()).limit(NEWEST))).all()[::-1]
    return await agreement_of(connection, adapter.name, fall, [(row.session, row.value) for row in newest], trusted)


async def agreement_of(
    connection: AsyncConnection,
    adapter: str,
    fall: Fall,
    fed: Sequence[tuple[str, float]],
    trusted: Collection[str],
) -> Agreement:
    """The same, by these sessions with what the watch was fed of each, the oldest first."""
    keys = await _keys_of(connection, adapter, [session for session, _ in fed])
    voices = [Voice(fall.unit(value), keys.get(session, _NOBODY_KNOWN)) for session, value in fed]
    return await asyncio.to_thread(agree, voices, fall.threshold, fall.alpha, trusted)


def _of(table: Any, adapter: str, test: WatchedTest, *columns: Any) -> Any:
    """Those columns of a test's rows."""
    return select(*columns).where(
        table.c.adapter == adapter,
        table.c.version == test.version,
        table.c.scorer == test.scorer,
        table.c.against == test.against,
    )


def agree(voices: Sequence[Voice], threshold: float, alpha: float, trusted: Collection[str]) -> Agreement:
    """The rule, for sessions in the order in which they were scored."""
    voices = voices[_beginning([threshold - voice.value for voice in voices]) :]
    shortfall: defaultdict[str, float] = defaultdict(float)
    for voice in voices:
        for key in voice.keys:
            shortfall[key] += threshold - voice.value
    suspects = sorted(shortfall.keys() - set(trusted), key=lambda key: (-shortfall[key], key))[:MOST_KEYS]
    for key in suspects:
        if not _is_below([voice.value for voice in voices if key not in voice.keys], threshold, alpha):
            return Agreement(lone=key or None)
    return Agreement(bool(suspects) or _is_below([voice.value for voice in voices], threshold, alpha))


def _beginning(shortfalls: Sequence[float]) -> int:
    """From where on the sum to the end is the largest."""
    best, start, total = 0.0, len(shortfalls), 0.0
    for place in range(len(shortfalls) - 1, -1, -1):
        total += shortfalls[place]
        if total > best:
            best, start = total, place
    return start


def _is_below(values: Sequence[float], threshold: float, alpha: float) -> bool:
    """Whether it is established that the mean is below the threshold."""
    test = BettingTest(1 - threshold, alpha)
    for value in values:
        test.update(1 - value)
    return bool(test.rejected)


async def _keys_of(connection: AsyncConnection, adapter: str, subjects: Sequence[str]) -> Mapping[str, frozenset[str]]:
    """Whose each session is; those of which nothing is kept are not in it."""
    keys: defaultdict[str, set[str]] = defaultdict(set)
    for start in range(0, len(subjects), _AT_ONCE):
        some = subjects[start : start + _AT_ONCE]
        named = [subject for subject in some if not subject.startswith(_REQUEST)]
        requests = [subject.removeprefix(_REQUEST) for subject in some if subject.startswith(_REQUEST)]
        await _of_sessions(connection, adapter, named, keys)
        await _of_requests(connection, adapter, requests, keys)
    return {subject: frozenset(found) for subject, found in keys.items()}


async def _of_sessions(
    connection: AsyncConnection, adapter: str, sessions: Sequence[str], keys: defaultdict[str, set[str]]
) -> None:
    for table in (_FEEDBACK, _REQUESTS):
        left = [session for session in sessions if session not in keys]
        columns = table.c
        query = select(columns.session, columns.key_id).distinct()
        for row in await connection.execute(query.where(columns.session.in_(left), columns.adapter == adapter)):
            keys[row.session].add(row.key_id or "")


async def _of_requests(
    connection: AsyncConnection, adapter: str, request_ids: Sequence[str], keys: defaultdict[str, set[str]]
) -> None:
    columns: Any = _REQUESTS.c
    asked = select(columns.request_id, columns.id, columns.key_id).where(
        columns.request_id.in_(request_ids), columns.adapter == adapter, columns.variant != "shadow"
    )
    found = (await connection.execute(asked)).all()
    said: defaultdict[str, set[str]] = defaultdict(set)
    query = select(_FEEDBACK.c.record_id, _FEEDBACK.c.key_id).where(
        _FEEDBACK.c.record_id.in_([row.id for row in found])
    )
    for row in await connection.execute(query):
        said[row.record_id].add(row.key_id)
    for row in found:
        keys[_REQUEST + row.request_id] |= said[row.id] or {row.key_id or ""}
