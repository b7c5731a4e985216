"""One GPU for an engine and a tuner: training waits for a quiet time, or has the engine sleep meanwhile.

none    training begins at once: it has a GPU of its own, or a share of the memory (`tuner_memory_share`)
wait    it begins when the engines have been idle for a while
sleep   so, and then the engine on this GPU gives up its memory until training has ended; clients are served by the
        others. The gateway holds it asleep by a lease, and wakes it by itself when the tuner renews that no more. Of an
        engine that cannot be put to sleep training takes no more than its share of the memory, if it has one; else it
        waits

The engine must find its memory free when it is woken. So training stops, with a checkpoint, well before a lease ends
that cannot be renewed.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from monitors.watch.client import GatewayRefused
from tuner.errors import Interrupted
from tuner.shop import AtWork

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_TRY_AGAIN_S = 30.0
_LEASE_S = 120.0
_RENEW_S = 20.0
_GIVE_UP_S = 60.0
"""After so long without a renewal training is stopped, whatever the gateway is doing then. The rest of the lease is for
its last step and checkpoint (`tuner.children`), with as much again to spare."""
_WAKE_TRIES = 3
_WOKEN = (404, 409)
_NOT_NAMED = "No engine is put to sleep: set OSTLER_TUNER_REPLICA to the one on the tuner's GPU"
_WHY_NOT = ": it is the only one, requests still run on it, or it was started without sleep mode"
Replica = Mapping[str, Any]


@contextlib.asynccontextmanager
async def engine_makes_room(work: AtWork) -> AsyncIterator[None]:
    """Have the GPU for the block, as the settings say.

    Raises:
        Interrupted: the job is to stop, or no engine made room for as long as the settings wait; nothing was changed.
    """
    sharing = work.shop.settings.tuner_sharing
    if sharing == "none":
        yield
        return
    await work.control.unless_stopped(_until_quiet(work))
    if sharing == "wait":
        yield
        return
    async with _asleep(work):
        yield


async def _until_quiet(work: AtWork, *, has_told: bool = False) -> None:
    """Wait until the engines have been idle for as long as the settings say."""
    quiet_s = work.shop.settings.tuner_quiet_s
    while not _are_quiet(await _replicas(work), quiet_s):
        if not has_told:
            await work.tell(f"Training begins when the engine has been idle for {quiet_s:g} s")
            has_told = True
        await asyncio.sleep(_LOOK_S)


def _are_quiet(replicas: Sequence[Replica] | None, quiet_s: float) -> bool:
    """Whether they serve and had no request for so long.

    One that starts is about to take its memory. A gateway that does not answer, or knows of none, says nothing.
    """
    if not replicas:
        return False
    return all(each["state"] == "ready" and each["idle_s"] >= quiet_s for each in replicas)


async def _replicas(work: AtWork) -> list[Replica] | None:
    """The engines that share this GPU, as far as the settings tell; None if the gateway does not answer."""
    settings = work.shop.settings
    try:
        listed = (await work.shop.gateway.get("/admin/v1/replicas"))["data"]
    except GatewayRefused as refused:
        log.info("the gateway does not tell how busy the engines are: %s", refused)
        return None
    pool = [each for each in listed if each["pool"] == settings.base]
    return [each for each in pool if each["id"] == settings.tuner_replica] or pool


@contextlib.asynccontextmanager
async def _asleep(work: AtWork) -> AsyncIterator[None]:
    """Have the engine asleep for the block, unless training goes on beside it."""
    replica = await _one_asleep(work)
    if replica is None:
        yield
        return
    renewing = asyncio.create_task(_renew(work, replica))
    try:
        await work.tell(f"The engine {replica} sleeps while training has its GPU")
        yield
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        await _wake(work, replica)


async def _one_asleep(work: AtWork) -> str | None:
    """The engine that sleeps now; None if none does, and training has a share of the memory beside it.

    Raises:
        Interrupted: the job is to stop, or it has waited for long enough; later there may be room.
    """
    settings = work.shop.settings
    until = time.monotonic() + settings.tuner_engine_wait_s
    has_told = False
    while True:
        replica = await _the_one(work)
        why_not = _NOT_NAMED if replica is None else await _why_awake(work, replica)
        if why_not is None:
            return replica
        if settings.tuner_memory_share is not None:
            await work.tell(f"{why_not}; training goes on beside it, in its share of the memory", "warn")
            return None
        if not has_told:
            await work.tell(f"{why_not}; training waits", "warn")
            has_told = True
        if time.monotonic() >= until:
            raise Interrupted("engine")
        await work.control.unless_stopped(asyncio.sleep(_TRY_AGAIN_S))
        await work.control.unless_stopped(_until_quiet(work, has_told=True))


async def _the_one(work: AtWork) -> str | None:
    """The engine to put to sleep; None if nobody knows which it is."""
    replicas = await _replicas(work)
    return str(replicas[0]["id"]) if replicas is not None and len(replicas) == 1 else None


async def _why_awake(work: AtWork, replica: str) -> str | None:
    """Put it to sleep; why it is not, or None if it sleeps now."""
    try:
        await work.control.unless_stopped(_order_sleep(work, replica))
    except GatewayRefused as refused:
        await _wake(work, replica)  # nobody knows how far it came
        why = f" ({refused})" if refused.status not in _WOKEN else _WHY_NOT
        return f"The engine {replica} is not put to sleep{why}"
    except BaseException:
        await _wake(work, replica)
        raise
    return None


async def _order_sleep(work: AtWork, replica: str, *, renew: bool = False) -> None:
    """Have the gateway hold it asleep for the time of a lease from now."""
    force = work.shop.settings.tuner_sleep_last
    order = {"holder": work.worker, "for_s": _LEASE_S, "force": force, "renew": renew}
    await work.shop.gateway.post(f"/admin/v1/replicas/{quote(replica, safe='')}/sleep", order)


async def _renew(work: AtWork, replica: str) -> None:
    """Keep it asleep; stop the training if that may fail."""
    until = time.monotonic() + _GIVE_UP_S
    while (left_s := until - time.monotonic()) > 0:
        await asyncio.sleep(min(_RENEW_S, left_s))
        asked = time.monotonic()
        try:
            async with asyncio.timeout(min(_RENEW_S, max(0.0, until - asked))):
                await _order_sleep(work, replica, renew=True)
        except (GatewayRefused, TimeoutError) as error:
            log.warning("the engine %s may be woken: its sleep could not be renewed (%s)", replica, error)
            if isinstance(error, GatewayRefused) and error.status in _WOKEN:
                break  # somebody has woken it
            continue
        until = asked + _GIVE_UP_S
    work.control.stop("engine")


async def _wake(work: AtWork, replica: str) -> None:
    """Have it wake; a gateway that does not answer wakes it by itself when the lease ends."""
    for _ in range(_WAKE_TRIES):
        try:
            path = f"/admin/v1/replicas/{quote(replica, safe='')}/wake"
            await work.shop.gateway.post(path, {"holder": work.worker})
            return
        except GatewayRefused as refused:
            log.warning("the engine %s was not woken: %s", replica, refused)
            if refused.status is not None and refused.status < 500:
                return
        await asyncio.sleep(_LOOK_S)
