"""Feeds the requests of a rollout into its limits: how many fail, how long a token takes, and what a request costs.

Every request of the new version counts once, as soon as its gateway has written it, which takes a second: a burst of
errors is seen at the next look. Each limit is held against the other version's requests of about the same time, so what
happens to both says nothing against either.
"""

import logging
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.log.arrivals import Position, arrived
from monitors.loop.failures import Failures
from monitors.loop.matching import Arm
from monitors.loop.sessions import ARMS
from monitors.loop.trial import Ratio, Sides, Trial
from registry.building import let_others_run

log = logging.getLogger(__name__)

MOST_AT_ONCE = 5000
"""Requests of each version that one look takes; where the new one has more, the next look follows at once."""
_OK = 200
_FALLBACK = "fallback"
_ITS_OWN = frozenset({"engine_error", "version_not_servable"})
"""Errors of a version on an engine that lives."""
_BROKE_OFF = "engine_unavailable"
_IMPATIENT = frozenset({"client_gone", "deadline_exceeded"})
"""Ends that come when somebody waits no longer."""


async def feed_requests(connection: AsyncConnection, trial: Trial, last: Position) -> None:
    """Give the limits what ended since the last look, up to the `last` rows of the request log."""
    sides = trial.sides
    found = await arrived(connection, trial.requests, last, sides.adapter, sides.new, sides.old, limit=MOST_AT_ONCE)
    trial.requests, trial.is_behind = found.position, found.is_behind
    if found.is_behind:
        log.warning("the loop is behind with the requests of %s; it looks again at once", sides.adapter)
    for index, row in enumerate(found.rows):
        await let_others_run(index)
        if row.started_at >= sides.began_at:
            take(trial, row)


def take(trial: Trial, row: Row[Any]) -> None:
    """One request of either version, or one that something else answered in its place."""
    arm = _arm(row, trial.sides)
    if arm is None:
        return
    if trial.errors is not None:
        _count(trial.errors, arm, row)
    if row.variant in ARMS and _is_whole(row):
        _compare(trial.latency, arm, _token_s(row))
        _compare(trial.cost, arm, row.cost)


def _arm(row: Row[Any], sides: Sides) -> Arm | None:
    """Whose turn it was; None if neither version's, or if the client named the version."""
    number = row.intended if row.intended is not None else row.version if row.variant in ARMS else None
    return "new" if number == sides.new else "old" if number == sides.old else None


def _count(errors: Failures, arm: Arm, row: Row[Any]) -> None:
    if row.variant == _FALLBACK:
        _count_replaced(errors, arm, row)
        return
    failed = has_failed(row, errors)
    if failed is not None:
        errors.take(arm, failed=failed)
    if _is_whole(row):
        errors.answered(_served_s(row))


def _count_replaced(errors: Failures, arm: Arm, row: Row[Any]) -> None:
    """A request that a version failed on; what else failed on it, too, says nothing of the version."""
    if _is_whole(row) and arm == "new":
        errors.replaced()
    elif _is_whole(row):
        errors.take(arm, failed=True)


def has_failed(row: Row[Any], errors: Failures) -> bool | None:
    """Whether a version failed on a request; None if that says nothing of it.

    It failed if an engine answered with an error, broke off, or refuses the version. What the client did (4xx, or it
    left), and what the gateway refused before any engine was asked (too many requests, no engine, no time left, the
    gateway's own end), says nothing. Who waits no longer for the first byte tells of a version that hangs, but only
    after a wait longer than whole answers take now: anybody can set a short deadline.
    """
    if _is_whole(row):
        return False
    if row.error in _ITS_OWN:
        return True
    if row.replica is None:
        return None
    if row.error in _IMPATIENT:
        return True if row.first_byte_s is None and errors.is_long(_served_s(row)) else None
    return True if row.error == _BROKE_OFF else None


def _is_whole(row: Row[Any]) -> bool:
    return row.status == _OK and row.error is None


def _served_s(row: Row[Any]) -> float:
    """Seconds without the wait for a turn."""
    return max(0.0, float(row.duration_s - row.queue_s))


def _token_s(row: Row[Any]) -> float | None:
    """Seconds for each token of the answer, without the wait for a turn; None without tokens."""
    return _served_s(row) / row.completion_tokens if row.completion_tokens else None


def _compare(ratio: Ratio | None, arm: Arm, value: float | None) -> None:
    if ratio is not None and value is not None:
        ratio.take(is_new=arm == "new", value=value)
