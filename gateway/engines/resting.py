"""Replicas that sleep for a while, so that somebody else can use their GPU, and are woken in time.

Who has a replica sleep holds it so by a lease in the database, which all gateways follow: none of them sends it
requests. It is asleep for no longer than the lease: when that ends, or is given back, whichever gateway looks at the
engine first wakes it, and it must answer before it gets requests again (`Replica`). So an engine comes back whatever
becomes of whoever had it sleep, and of this gateway.

The lease is taken first and looked at last: it covers the time in which an engine's requests end and it falls asleep,
and an engine whose lease is lost by then is woken again. Leases go by the engines' URLs, as two gateways may number the
same engines in different ways.
"""

import asyncio
import contextlib
import functools
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from gateway.engines.failures import EngineDown, EngineRefused
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

    def holds(self, url: str) -> bool:
        """Whether the engine at a URL is out of service now."""
        rest = self._rests.get(_key(url)) if self._rests else None
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
                engine cannot sleep, requests on it did not end in time, or somebody woke it meanwhile; it is in
                service as before.
            EngineUnavailable: it does not answer.
        """
        replica = self._replica(id)
        if renew:
            await self._keep(replica, holder, for_s)
            return replica
        await self.refresh()
        if self._rest_of(replica, holder) is None:
            await self._require_able(replica)
        await self._claim(replica, holder, for_s + self._longest_s, force=force)
        try:
            await self._fall_asleep(replica, holder, for_s)
        except BaseException:
            await asyncio.shield(self._end(replica, holder))
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
        rest = self._rest_of(replica, holder)
        if rest is not None:
            await self._end(replica, rest.holder)
        replica.suspect()
        if not await _comes_true(lambda: replica.is_settled, self._patience_s):
            raise EngineUnavailable(f"{id} was woken and does not serve yet", retry_after_s=_RETRY_AFTER_S)
        return replica

    def _replica(self, id: str) -> Replica:
        try:
            return self._fleet.replica(id)
        except KeyError:
            raise NotFound(f"there is no replica {id!r}", param="replica_id") from None

    def _rest_of(self, replica: Replica, holder: str | None) -> Rest | None:
        rest = self._rests.get(_key(replica.engine.url))
        if rest is not None and holder not in (None, rest.holder):
            raise Conflict(f"{replica.id} sleeps for {rest.holder!r}, not for {holder!r}", param="holder")
        return rest

    @property
    def _longest_s(self) -> float:
        """How long it may take until an engine sleeps."""
        return 2 * self._follow_s + _DRAIN_S + self._patience_s

    async def _require_able(self, replica: Replica) -> None:
        with _as_ours(replica.id):
            can_sleep = await replica.manager.is_sleeping() is not None
        if not can_sleep:
            raise Conflict(
                f"{replica.id} cannot sleep: start its engine with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1"
            )

    async def _claim(self, replica: Replica, holder: str, for_s: float, *, force: bool) -> None:
        """Take the lease of a replica, unless nothing would serve its pool without it."""
        name = _lease(replica)
        if force:
            taken = await self._registry.acquire_lease(name, holder, for_s)
        else:
            others = [_lease(other) for other in self._fleet.others_that_serve(replica.id)]
            taken = await self._registry.acquire_lease_beside(name, holder, for_s, others=others)
        if not taken:
            await self.refresh()
            self._rest_of(replica, holder)
            raise Conflict(f"{replica.id} is the only engine that serves {replica.pool}; say force if clients may wait")
        self._note(replica, holder, for_s)

    async def _keep(self, replica: Replica, holder: str, for_s: float) -> None:
        """Have a lease that the holder has still end in `for_s` seconds from now."""
        await self.refresh()
        if self._rest_of(replica, holder) is None:
            raise Conflict(f"{replica.id} does not sleep for {holder!r} any more")
        if not await self._registry.acquire_lease(_lease(replica), holder, for_s):
            raise Conflict(f"somebody else has {replica.id} sleep")
        self._note(replica, holder, for_s)

    def _note(self, replica: Replica, holder: str, for_s: float) -> None:
        self._rests[_key(replica.engine.url)] = Rest(holder, datetime.now(UTC) + timedelta(seconds=for_s))

    async def _fall_asleep(self, replica: Replica, holder: str, for_s: float) -> None:
        await asyncio.sleep(2 * self._follow_s)  # by then the other gateways send it nothing more
        since = time.monotonic()
        replica.suspect()
        url = replica.engine.url
        if not await _comes_true(lambda: replica.is_drained(since) or not self.holds(url), _DRAIN_S):
            raise Conflict(f"requests still run on {replica.id}; try again when it is idle")
        await self._keep(replica, holder, self._patience_s + for_s)
        try:
            with _as_ours(replica.id):
                await replica.manager.sleep(self._patience_s)
            await self._keep(replica, holder, for_s)
        except BaseException:
            await asyncio.shield(self._rouse(replica))
            raise
        log.info("engine %s sleeps", replica.id)

    async def _rouse(self, replica: Replica) -> None:
        """Wake an engine that is not to sleep after all; one that failed to say so may sleep all the same."""
        with contextlib.suppress(EngineDown, EngineRefused):
            await replica.manager.wake_up(self._patience_s)
        replica.suspect(in_doubt=True)

    async def _end(self, replica: Replica, holder: str) -> None:
        await self._registry.release_lease(_lease(replica), holder)
        key = _key(replica.engine.url)
        if key in self._rests and self._rests[key].holder == holder:
            del self._rests[key]


@functools.lru_cache(maxsize=1024)
def _key(url: str) -> str:
    """What an engine is called in leases: the same in all gateways, short, and without what else a URL may hold."""
    return hashlib.sha256(url.encode()).hexdigest()[:32]


def _lease(replica: Replica) -> str:
    return _LEASE + _key(replica.engine.url)


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
