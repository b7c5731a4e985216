"""Requests on their way, without a gateway around them."""

import asyncio
import time
from typing import Any

from gateway.exchange import Exchange
from gateway.pricing import Prices


def an_exchange(deadline_s: float = 60.0, **fields: Any) -> Exchange:
    """A request that has so long, served by the task that asks for it."""
    exchange = Exchange(
        path="/v1/chat/completions",
        request_id="req-1",
        deadline=time.monotonic() + deadline_s,
        hooks=(),
        prices=Prices({}, _no_rates),
        **fields,
    )
    exchange.task = asyncio.current_task()
    return exchange


async def _no_rates(_: Any) -> dict[str, float]:
    return {}
