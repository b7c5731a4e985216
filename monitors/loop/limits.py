"""Feeds the requests of a rollout into its limits: how many fail, how long a token takes, and what a request costs.

Every request counts once, as soon as its gateway has written it, which takes a second: a burst of errors is seen at the
next look.
"""

from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.log.arrivals import Position, arrived
from monitors.loop.sessions import ARMS
from monitors.loop.trial import Ratio, Sides, Trial
from registry.building import let_others_run

MOST_AT_ONCE = 5000
"""Requests that one look takes; the next look takes the rest."""
_SERVER_ERROR = 500
_OK = 200
_CLIENT_GONE = "client_gone"
_FALLBACK = "fallback"


async def feed_requests(connection: AsyncConnection, trial: Trial, last: Position) -> None:
    """Give the limits what ended since the last look, up to the `last` rows of the request log."""
    sides, versions = trial.sides, (trial.sides.new, trial.sides.old)
    rows, trial.requests = await arrived(connection, trial.requests, last, sides.adapter, versions, limit=MOST_AT_ONCE)
    for index, row in enumerate(rows):
        await let_others_run(index)
        if row.started_at >= sides.began_at:
            take(trial, row)


def take(trial: Trial, row: Row[Any]) -> None:
    """One request of either version."""
    failed = has_failed(row, trial.sides)
    if failed is not None and trial.errors is not None:
        trial.errors.update(float(failed))
    if row.variant in ARMS and _is_whole(row):
        is_new = row.version == trial.sides.new
        _compare(trial.latency, is_new, _token_s(row))
        _compare(trial.cost, is_new, row.cost)


def has_failed(row: Row[Any], sides: Sides) -> bool | None:
    """Whether the new version failed on a request; None if that says nothing of it.

    An answer that breaks off is a failure, and so is what the old version had to answer in its place, for the gateway
    leaves a version alone that keeps failing. What is the client's own fault (4xx, or it went away) says nothing.
    """
    if row.version == sides.old:
        return True if row.variant == _FALLBACK else None
    if row.variant not in ARMS or row.error == _CLIENT_GONE:
        return None
    if row.status >= _SERVER_ERROR or (row.status == _OK and row.error is not None):
        return True
    return False if row.status == _OK else None


def _is_whole(row: Row[Any]) -> bool:
    return row.status == _OK and row.error is None


def _token_s(row: Row[Any]) -> float | None:
    """Seconds for each token of the answer, without the wait for a turn; None without tokens."""
    return max(0.0, row.duration_s - row.queue_s) / row.completion_tokens if row.completion_tokens else None


def _compare(ratio: Ratio | None, is_new: bool, value: float | None) -> None:
    if ratio is not None and value is not None:
        ratio.take(is_new=is_new, value=value)
