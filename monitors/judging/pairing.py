"""From scores to observations: what one session adds to a test.

Level    the score of an answer that an adapter's own version gave to a client
Base     that score minus the score of the base model's answer to the same request, in [-1, 1]
Version  the same against another version of the adapter, where both answered the same request

Requests of one session are alike, and a test that took them for independent would be sure too soon. So each session
counts once for each test, with its first score or first whole pair; a session that the client did not name is the
request itself. A request id that was used for several requests is not paired, for nobody knows whose shadow is whose.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.tables import ObservationRow
from monitors.watch.progress import move_cursor

LEVEL, BASE = "level", "base"
OWN_VARIANTS = ("stable", "canary", "pinned")
"""How a version of the adapter's own answers its clients."""
SHADOW = "shadow"
ORDER = "observations"

_OBSERVATIONS = ObservationRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model


@dataclass(frozen=True, slots=True)
class Scored:
    """A score as it stands in the database; `against` is empty, or what the answer was compared with."""

    record_id: str
    request_id: str
    adapter: str
    version: int
    variant: str
    session: str | None
    scorer: str
    against: str
    value: float

    @property
    def subject(self) -> str:
        """The session that it counts for."""
        return subject_of(self.session, self.request_id)


@dataclass(frozen=True, slots=True)
class Observation:
    """What one session adds to the test of a version under a scorer, against something."""

    adapter: str
    version: int
    scorer: str
    against: str
    session: str
    value: float


EngineName = Callable[[str, int], str]


def subject_of(session: str | None, request_id: str) -> str:
    """The session that a request counts for; without one, itself. No pseudonym of a session holds a space."""
    return session or f"request {request_id}"


def observations(scores: Iterable[Scored], engine_name: EngineName) -> list[Observation]:
    """What the scores of some requests give; all scores of a request belong together.

    `engine_name` gives the engine name of an adapter's version, under which it stands in `against`.
    """
    requests: defaultdict[tuple[str, str, str], list[Scored]] = defaultdict(list)
    found = []
    for score in scores:
        if score.variant in OWN_VARIANTS and score.against in ("", BASE):
            found.append(_observation(score, LEVEL, score.value))
        if score.against:
            found.append(_observation(score, score.against, 2 * score.value - 1))
        else:
            requests[score.adapter, score.request_id, score.scorer].append(score)
    for group in requests.values():
        found += _pairs(group, engine_name)
    return found


def _pairs(scores: Sequence[Scored], engine_name: EngineName) -> list[Observation]:
    """The differences between an answer and its shadows, all under one scorer."""
    own = [score for score in scores if score.variant in OWN_VARIANTS]
    if len(own) != 1:
        return []
    shadows: defaultdict[int, list[Scored]] = defaultdict(list)
    for score in scores:
        if score.variant == SHADOW and score.version != own[0].version:
            shadows[score.version].append(score)
    return [_difference(own[0], same[0], engine_name) for same in shadows.values() if len(same) == 1]


def _difference(own: Scored, shadow: Scored, engine_name: EngineName) -> Observation:
    """The pair as an observation of the version that is not the stable one; of the adapter's, against the base."""
    difference = own.value - shadow.value
    if not shadow.version:
        return _observation(own, BASE, difference)
    if own.variant == "stable":
        return _observation(own, engine_name(own.adapter, own.version), -difference, shadow.version)
    return _observation(own, engine_name(own.adapter, shadow.version), difference)


def _observation(score: Scored, against: str, value: float, version: int | None = None) -> Observation:
    tested = score.version if version is None else version
    return Observation(score.adapter, tested, score.scorer, against, score.subject, value)


async def hold_order(connection: AsyncConnection, now: datetime) -> None:
    """Have this transaction be the only one that writes observations, from here to its end.

    The tests read them in the order of their ids. Of two transactions the second one waits here for the first, so an
    id that is smaller than one that was read never appears later.
    """
    await move_cursor(connection, ORDER, "", now.isoformat())


async def write_observations(connection: AsyncConnection, found: Sequence[Observation], now: datetime) -> None:
    """Add those whose session has not counted yet, in a transaction that holds the order."""
    if not found:
        return
    insert: Any = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(_OBSERVATIONS)
    rows = [asdict(each) | {"created_at": now} for each in found]
    await connection.execute(insert.on_conflict_do_nothing(), rows)
