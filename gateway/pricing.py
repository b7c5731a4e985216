"""What requests cost, as the settings price them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from gateway.usage import Usage
from monitors.money.pricing import Pricing

log = logging.getLogger(__name__)

Rates = Mapping[str, float]


class Prices:
    """Says what a request cost.

    Where engines are paid by the hour that is known once the hour is over (`monitors.money.rates`). Until then it is
    told by the newest rates; before the first there is no cost.

    Args:
        pricing: how each pool's tokens are paid.
        read: gives the newest money per weighted token of those pools, as far as there is one.
    """

    def __init__(self, pricing: Mapping[str, Pricing], read: Callable[[Sequence[str]], Awaitable[Rates]]) -> None:
        self._pricing = pricing
        self._by_hour = tuple(pool for pool, its in pricing.items() if its.is_by_gpu_hour)
        self._read = read
        self._rates: Rates = {}

    def cost(self, pool: str | None, usage: Usage) -> float | None:
        """What a request to that pool cost; None if its tokens or their price are not known."""
        pricing = self._pricing.get(pool or "")
        if pricing is None or (usage.prompt_tokens is None and usage.completion_tokens is None):
            return None
        prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
        if not pricing.is_by_gpu_hour:
            return pricing.listed(prompt, completion)
        rate = self._rates.get(pool or "")
        return None if rate is None else rate * pricing.weighted(prompt, completion)

    async def refresh(self) -> None:
        """Read the newest rates, if any pool is paid by the hour. If that fails nothing changes."""
        if self._by_hour:
            self._rates = await self._read(self._by_hour)

    async def follow(self, pause_s: float) -> None:
        """Refresh for ever. While the database is away, the last known rates stay."""
        away = False
        while True:
            try:
                await self.refresh()
                away = False
            except Exception as error:
                if not away:
                    log.warning("what tokens cost cannot be read (%s); the last rates stay", type(error).__name__)
                away = True
            await asyncio.sleep(pause_s)
