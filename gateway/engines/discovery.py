"""Where a pool's engines are: a static list, or every address that a DNS name has, such as a headless Service's."""

import asyncio
import logging
import socket
from collections.abc import Mapping

from gateway.settings import PoolSettings

log = logging.getLogger(__name__)


def listed(pools: tuple[PoolSettings, ...]) -> dict[str, Mapping[str, str]]:
    """The engines of the static lists: for each base model, replica id -> URL.

    Ids are the same in every gateway that lists the same engines in the same order; what gateways must agree on
    whatever their settings, such as who sleeps, goes by the URL.
    """
    found: dict[str, Mapping[str, str]] = {}
    number = 0
    for pool in pools:
        urls = () if pool.engine_dns else pool.engine_urls
        found[pool.base] = {f"engine-{number + index}": url for index, url in enumerate(urls)}
        number += len(urls)
    return found


async def look_up(pool: PoolSettings) -> Mapping[str, str] | None:
    """The engines behind the pool's DNS name, replica id -> URL; None if the name cannot be resolved now.

    The port is part of the id, as pools may share machines.
    """
    host, _, port = pool.engine_dns.rpartition(":")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # the latter for what cannot be a host's name
        log.warning("the engines of %s cannot be looked up (%s); the ones of before are kept", pool.base, error)
        return None
    addresses = sorted({str(entry[4][0]) for entry in found})
    engines = [f"{f'[{address}]' if ':' in address else address}:{port}" for address in addresses]
    return {engine: f"http://{engine}" for engine in engines}
