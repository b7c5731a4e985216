"""Fills in how likely captured answers were to the version that gave them, for a sample of them.

A version that is less and less sure of its own answers sees traffic that it was not made for, so this is one of the
columns that drift is looked for in. It costs two short requests for each answer; they are made at the lowest priority,
never more than the settings say, and not at all while the gateway is busy.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from itertools import chain, islice, zip_longest
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.judging.likelihood import likelihood
from monitors.tables import CaptureRow
from monitors.watch.client import GatewayRefused
from monitors.watch.progress import cursor, move_cursor
from monitors.watch.work import Workshop
from registry.catalog import Catalog
from registry.database import writing

log = logging.getLogger(__name__)

_MINUTE_S = 60.0
_SETTLED = timedelta(seconds=10)
"""So long after a request's end its capture is in the database."""
_LOOKED_AT = 5000
_OWN_VARIANTS = ("stable", "canary", "pinned")
_BUSY = (None, 429, 503)
_CAPTURES = CaptureRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model


class LikelihoodJob:
    """Once a minute takes a few of the answers captured since, in turn from each version that is deployed."""

    name = "likelihood"
    every_s = _MINUTE_S

    def __init__(self, workshop: Workshop) -> None:
        self._database = workshop.database
        self._gateway = workshop.gateway
        self._most = workshop.settings.likelihood_per_minute

    async def run(self, catalog: Catalog, now: datetime) -> None:
        """Fill in what was captured since the last run, as far as the limit goes; what is left out stays unknown."""
        if not self._most:
            return
        models = _deployed(catalog)
        until = now - _SETTLED
        async with self._database.connect() as connection:
            chosen = await _choose(connection, self.name, models.keys(), self._most, until)
        async with writing(self._database) as connection:
            await move_cursor(connection, self.name, "", until.isoformat())
        for row in chosen:
            if not await self._fill_in(row, models[row.adapter, row.version]):
                break

    async def _fill_in(self, row: Row[Any], model: str) -> bool:
        """Ask and write down; False if the gateway has better things to do."""
        try:
            found = await likelihood(self._gateway, model, row.prompt, row.answer)
        except GatewayRefused as refused:
            if refused.status in _BUSY:
                log.info("no more likelihoods are asked for now: %s", refused)
            return refused.status not in _BUSY
        if found is not None:
            async with writing(self._database) as connection:
                filled = update(_CAPTURES).where(_CAPTURES.c.id == row.id)
                await connection.execute(filled.values(mean_logprob=found.mean_logprob))
        return True


def _deployed(catalog: Catalog) -> dict[tuple[str, int], str]:
    """The engine names of what is deployed: asking any other version could make an engine load it."""
    return {
        (adapter.name, number): adapter.versions[number].engine_name
        for adapter in catalog.adapters.values()
        if adapter.deployment is not None
        for number in adapter.deployment.versions
    }


async def _choose(
    connection: AsyncConnection, job: str, versions: Collection[tuple[str, int]], most: int, until: datetime
) -> Sequence[Row[Any]]:
    """Captured chats since the last time, newest first, one of each version in turn.

    What was redacted is not what the model read, and so is left out.
    """
    position = await cursor(connection, job, "")
    since = datetime.fromisoformat(position) if position else until - timedelta(seconds=_MINUTE_S)
    columns = _CAPTURES.c
    new = select(columns.id, columns.adapter, columns.version).where(
        columns.created_at > since,
        columns.created_at <= until,
        columns.mean_logprob.is_(None),
        columns.answer.is_not(None),
        columns.redactions == 0,
        columns.variant.in_(_OWN_VARIANTS),
    )
    found = await connection.execute(new.order_by(columns.created_at.desc(), columns.id).limit(_LOOKED_AT))
    of_versions: dict[tuple[str, int], list[str]] = defaultdict(list)
    for row in found:
        if (row.adapter, row.version) in versions:
            of_versions[row.adapter, row.version].append(row.id)
    in_turn = filter(None, chain.from_iterable(zip_longest(*of_versions.values())))
    whole = select(_CAPTURES).where(columns.id.in_(list(islice(in_turn, most))))
    return [row for row in await connection.execute(whole) if row.answer and isinstance(row.prompt, list)]
