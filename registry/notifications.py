"""Tells a gateway at once that some gateway changed the registry: PostgreSQL's LISTEN, a short pause on SQLite."""

import asyncio
import contextlib
import logging
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from registry.database import connect_alone
from registry.repository import CHANNEL

log = logging.getLogger(__name__)

_SQLITE_PAUSE_S = 0.25
_RECONNECT_PAUSE_S = 1.0
_CHECK_EVERY_S = 15.0
_CHECK_TIMEOUT_S = 5.0


class ChangeSignal:
    """Waits for changes. Its one connection to PostgreSQL comes back by itself and is never told to have failed.

    A wait that ends says only that it is worth looking: at the change number, which is the truth.

    Args:
        engine: the database that changes are looked for in.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = connect_alone(engine, "changes") if engine.dialect.name == "postgresql" else None
        self._changed = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None

    async def wait(self, at_most_s: float) -> None:
        """Return when a change was committed since the last wait, and after `at_most_s` in any case."""
        if self._engine is None:
            await asyncio.sleep(min(at_most_s, _SQLITE_PAUSE_S))
            return
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen_for_ever(self._engine))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._changed.wait()
        self._changed.clear()

    async def aclose(self) -> None:
        """Stop listening and close the connection."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait([self._listener])
            self._listener = None
        if self._engine is not None:
            await self._engine.dispose()

    async def _listen_for_ever(self, engine: AsyncEngine) -> None:
        while True:
            try:
                async with engine.connect() as connection:
                    await self._listen(connection)
            except (SQLAlchemyError, OSError) as error:
                log.info("changes are looked for by polling: %s", type(error).__name__)
            except Exception:
                log.exception("changes are looked for by polling")
            await asyncio.sleep(_RECONNECT_PAUSE_S)

    async def _listen(self, connection: AsyncConnection) -> None:
        """Listen until the connection is lost."""
        driver: Any = (await connection.get_raw_connection()).driver_connection
        lost = asyncio.Event()
        driver.add_termination_listener(lambda *_: lost.set())
        await driver.add_listener(CHANNEL, lambda *_: self._changed.set())
        self._changed.set()  # for what was committed before we listened
        while not lost.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_EVERY_S):
                    await lost.wait()
            if not lost.is_set():
                await _require_alive(driver)


async def _require_alive(driver: Any) -> None:
    """Find out by asking whether the peer has vanished without a word."""
    try:
        await driver.execute("SELECT 1", timeout=_CHECK_TIMEOUT_S)
    except BaseException:
        driver.terminate()  # closing in good order would wait for the peer again
        raise
