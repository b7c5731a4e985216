"""Files whose time is over go by themselves, and with them what is left of deleted ones."""

import asyncio
import logging

from sqlalchemy.exc import SQLAlchemyError

from registry.errors import StoreFailure
from registry.tuning.files import Files

log = logging.getLogger(__name__)


async def sweep_files(files: Files, pause_s: float) -> None:
    """Sweep again and again, for ever; every gateway does, as each may have copies of its own."""
    while True:
        await asyncio.sleep(pause_s)
        try:
            # A write that is broken off in the middle would leave SQLite locked for the next one.
            await asyncio.shield(files.sweep())
        except (SQLAlchemyError, OSError, TimeoutError, StoreFailure) as error:
            log.warning("files that are over stay for now: %s", type(error).__name__)
        except Exception:
            log.exception("files that are over could not be swept")
