"""Events, as tuners tell them."""

from collections.abc import Mapping
from typing import Any

from registry.database import writing
from registry.tuning.events import Events, Level, NewEvent, add_events


async def tell(
    events: Events, job: str, message: str, *, level: Level = "info", data: Mapping[str, Any] | None = None
) -> None:
    """Add one, whoever holds the job."""
    async with writing(events._engine) as connection:
        await add_events(connection, job, [NewEvent(message, level, data)])
