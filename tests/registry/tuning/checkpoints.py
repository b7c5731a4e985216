"""Checkpoints, as tuners keep them."""

from collections.abc import Mapping
from typing import Any

from registry.database import writing
from registry.tuning import events as rows
from registry.tuning.events import Events, NewCheckpoint


async def add_checkpoint(
    events: Events, job: str, step: int, digest: str | None, metrics: Mapping[str, Any], *, is_best: bool
) -> list[str]:
    """Keep one, whoever holds the job; the digests of what nothing goes on from any more."""
    async with writing(events._engine) as connection:
        return await rows.add_checkpoint(connection, job, NewCheckpoint(step, digest, metrics, is_best))
