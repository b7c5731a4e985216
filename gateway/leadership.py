"""Which of several gateways tidies up the engines: the one that holds a lease in the database."""

import asyncio
import contextlib
import logging
import secrets
import time

from sqlalchemy.exc import SQLAlchemyError

from gateway.engines.heat import Heat
from registry.registry import Registry

log = logging.getLogger(__name__)

LEASE = "reconciler"
TTL_S = 15.0


class Leadership:
    """This gateway's claim on the lease. Without the database it ends by itself, as nobody else can take it then."""

    def __init__(self, registry: Registry, ttl_s: float = TTL_S) -> None:
        self._registry = registry
        self._holder = secrets.token_hex(8)
        self._ttl_s = ttl_s
        self._until = 0.0

    @property
    def holds(self) -> bool:
        """Whether this gateway is the one."""
        return time.monotonic() < self._until

    async def claim(self) -> None:
        """Take the lease if it is free, or keep it."""
        began = time.monotonic()  # before the call, so that we never believe longer than the others do
        held = self.holds
        try:
            # A write that is broken off in the middle would leave SQLite locked for the next one.
            taken = await asyncio.shield(self._registry.acquire_lease(LEASE, self._holder, self._ttl_s))
        except (SQLAlchemyError, OSError, TimeoutError):
            return
        self._until = began + self._ttl_s if taken else 0.0
        if taken and not held:
            log.info("this gateway tidies up the engines")

    async def follow(self, heat: Heat) -> None:
        """Keep claiming, for ever, and tell each other what is used: who makes room must know what others use."""
        while True:
            await asyncio.sleep(self._ttl_s / 3)
            await self.claim()
            with contextlib.suppress(SQLAlchemyError, OSError, TimeoutError):
                await asyncio.shield(self._share(heat))

    async def _share(self, heat: Heat) -> None:
        await self._registry.share_use(self._holder, heat.own())
        heat.others = await self._registry.others_use(self._holder, self._ttl_s)

    async def resign(self) -> None:
        """Let another gateway have it at once."""
        if self.holds:
            self._until = 0.0
            try:
                await self._registry.release_lease(LEASE, self._holder)
            except (SQLAlchemyError, OSError, TimeoutError):
                log.info("the lease ends by itself")
