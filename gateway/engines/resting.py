"""Replicas that sleep for a while, so that somebody else can use their GPU, and are woken in time.

Who has a replica sleep holds it so by a lease in the database, which all gateways follow: none of them sends it
requests. It is asleep for no longer than the lease: when that ends, or is given back, whichever gateway looks at the
engine first wakes it, and it must answer before it gets requests again (`Replica`). So an engine comes back whatever
becomes of whoever had it sleep, and of this gateway.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from gateway.engines.engine import EngineDown, EngineRefused
from gateway.engines.fleet import Fleet
from gateway.engines.replica import Replica
from gateway.errors import EngineUnavailable
from registry.errors import Conflict, NotFound
from registry.registry import Registry

log = logging.getLogger(__name__)

_LEASE = "asleep "
_LOOK_S = 0.05
_RETRY_AFTER_S = 5.0
_DRAIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Rest:
    """Who has a replica sleep, and until when."""

    holder: str
    until: datetime


class Rests:
    """Which replicas are out of service, by this gateway's last look at the leases.

    Args:
        follow_s: pause between looks at the leases.
        patience_s: how long an engine may take to fall asleep, or to wake up and get its versions.
    """

    def __init__(self, registry: Registry, fleet: Fleet, *, follow_s: float, patience_s: float) -> None:
        self._registry = registry
        self._fleet = fleet
        self._follow_s = follow_s
        self._patience_s = patience_s
        self._rests: dict[str, Rest] = {}

    def holds(self, id: str) -> bool:
        """Whether a replica is out of service now."""
        rest = self._rests.get(id)
        return rest is not None and datetime.now(UTC) < rest.until

    async def refresh(self) -> None:
        """Look at the leases."""
        held = await self._registry.held_leases(_LEASE)
        self._rests = {name: Rest(holder, until) for name, (holder, until) in held.items()}

    async def follow(self) -> None:
        """Keep looking, for ever; without the database what is known ends by itself."""
        while True:
            await asyncio.sleep(self._follow_s)
            try:
                await asyncio.shield(self.refresh())
            except (SQLAlchemyError, OSError, TimeoutError) as error:
                log.debug("the leases of sleeping engines cannot be read (%s)", type(error).__name__)

    async def sleep(self, id: str, holder: str, for_s: float, *, force: bool = False, renew: bool = False) -> Replica:
        """Take a replica out of service and have it sleep, once nobody uses it; `renew` only makes it longer.

        Raises:
            NotFound: there is no such replica.
            Conflict: it is the only one that serves its base and `force` is not said, somebody else has it sleep, its
                engine cannot sleep, or requests on it did not end in time; it is in service as before.
            EngineUnavailable: it does not answer.
        """
        replica = self._replica(id)
        await self.refresh()
        rest = self._rest_of(id, holder)
        if renew and rest is None:
            raise Conflict(f"{id} does not sleep for {holder!r} any more")
        if rest is None:
            await self._require_able(replica, force=force)
        if not await self._registry.acquire_lease(_LEASE + id, holder, for_s):
            raise Conflict(f"somebody else has {id} sleep")
        self._rests[id] = Rest(holder, datetime.now(UTC) + timedelta(seconds=for_s))
        if not renew:
            try:
                await self._fall_asleep(replica)
            except BaseException:
                await asyncio.shield(self._end(id, holder))
                raise
        return replica

    async def wake(self, id: str, holder: str | None = None) -> Replica:
        """Have a replica serve again; answers when it does. One that does not sleep is none the worse for it.

        Raises:
            NotFound: there is no such replica.
            Conflict: it sleeps for another than that `holder`.
            EngineUnavailable: it does not answer in time.
        """
        replica = self._replica(id)
        await self.refresh()
        rest = self._rest_of(id, holder)
        if rest is not None:
            await self._end(id, rest.holder)
        replica.suspect()
        if not await _comes_true(lambda: replica.is_settled, self._patience_s):
            raise EngineUnavailable(f"{id} was woken and does not serve yet", retry_after_s=_RETRY_AFTER_S)
        return replica

    def _replica(self, id: str) -> Replica:
        try:
            return self._fleet.replica(id)
        except KeyError:
            raise NotFound(f"there is no replica {id!r}", param="replica_id") from None

    def _rest_of(self, id: str, holder: str | None) -> Rest | None:
        rest = self._rests.get(id)
        if rest is not None and holder not in (None, rest.holder):
            raise Conflict(f"{id} sleeps for {rest.holder!r}, not for {holder!r}", param="holder")
        return rest

    async def _require_able(self, replica: Replica, *, force: bool) -> None:
        if not force and not self._fleet.others_serve(replica.id):
            raise Conflict(f"{replica.id} is the only engine that serves {replica.pool}; say force if clients may wait")
        with _as_ours(replica.id):
            can_sleep = await replica.engine.is_sleeping() is not None
        if not can_sleep:
            raise Conflict(
                f"{replica.id} cannot sleep: start its engine with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1"
            )

    async def _fall_asleep(self, replica: Replica) -> None:
        await asyncio.sleep(2 * self._follow_s)  # by then the other gateways send it nothing more
        since = time.monotonic()
        replica.suspect()
        if not await _comes_true(lambda: replica.is_drained(since), _DRAIN_S):
            raise Conflict(f"requests still run on {replica.id}; try again when it is idle")
        with _as_ours(replica.id):
            await replica.engine.sleep(self._patience_s)
        log.info("engine %s sleeps", replica.id)

    async def _end(self, id: str, holder: str) -> None:
        await self._registry.release_lease(_LEASE + id, holder)
        self._rests.pop(id, None)


async def _comes_true(holds: Callable[[], bool], within_s: float) -> bool:
    """Whether a condition comes to hold in time."""
    until = time.monotonic() + within_s
    while not holds():
        if time.monotonic() >= until:
            return False
        await asyncio.sleep(_LOOK_S)
    return True


@contextlib.contextmanager
def _as_ours(id: str) -> Iterator[None]:
    """Turn what the engine's client raises into what an admin is told."""
    try:
        yield
    except EngineDown:
        raise EngineUnavailable(f"the engine of {id} does not answer", retry_after_s=_RETRY_AFTER_S) from None
    except EngineRefused as refused:
        raise Conflict(f"the engine of {id} refuses: {refused.reason}") from None
