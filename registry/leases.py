"""What gateways tell each other beside the registry's changes: who holds a lease, and who uses which version.

Nothing of it is a change of the registry: it raises no counter and audits nothing. Times are those of each machine's
clock, so clocks may differ by no more than callers leave room for.
"""

import heapq
from collections import Counter
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta

from registry import repository
from registry.transactions import Transactions

MONITOR = "monitor"
"""The lease of the one active monitor."""
_MOST_NAMES = 1000
"""A gateway's row is read by all the others every few seconds, so it stays small."""
_ONE_AT_A_TIME = "one at a time"
_FORGOTTEN_AFTER = timedelta(days=1)


class Leases(Transactions):
    """Leases, which only one process holds at a time until they run out, and the use of versions by each gateway."""

    async def acquire_lease(self, name: str, holder: str, ttl_s: float) -> bool:
        """Hold the lease for `ttl_s` seconds from now; also renews it. False while somebody else holds it.

        The clocks of the holders may differ by no more than the time they leave between renewing and running out.
        """
        now = datetime.now(UTC)
        async with self._sessions.begin() as session:
            return await repository.take_lease(session, name, holder, now=now, until=now + timedelta(seconds=ttl_s))

    async def acquire_lease_beside(self, name: str, holder: str, ttl_s: float, *, others: Collection[str]) -> bool:
        """The same, but False also if none of these `others` is free then.

        So of those who take the leases of a group one by one, or all at once, one always comes away with nothing.
        """
        now = datetime.now(UTC)
        async with self._sessions.begin() as session:
            # Over at once, and so held by nobody: its row lets one such transaction at a time look and take.
            await repository.take_lease(session, _ONE_AT_A_TIME, holder, now=now, until=now)
            held = {row.name for row in await repository.leases(session, "", now=now)}
            if held.issuperset(others):
                return False
            return await repository.take_lease(session, name, holder, now=now, until=now + timedelta(seconds=ttl_s))

    async def release_lease(self, name: str, holder: str) -> None:
        """Give the lease back at once; does nothing if somebody else holds it."""
        async with self._sessions.begin() as session:
            await repository.drop_lease(session, name, holder)

    async def held_leases(self, prefix: str) -> dict[str, tuple[str, datetime]]:
        """The leases of names that begin so and have not run out: by the rest of the name, who holds it until when."""
        async with self._sessions() as session:
            found = await repository.leases(session, prefix, now=datetime.now(UTC))
        return {row.name.removeprefix(prefix): (row.holder, row.expires_at) for row in found}

    async def share_use(self, gateway: str, use: Mapping[str, float]) -> None:
        """Tell the other gateways how much this one uses each engine name now; replaces what it told before.

        The 1,000 most used names are kept. Gateways that have told nothing for a day are forgotten, in a transaction
        of its own: so none holds its own row while it waits for another's.
        """
        now = datetime.now(UTC)
        hottest = dict(heapq.nlargest(_MOST_NAMES, use.items(), key=lambda item: item[1]))
        async with self._sessions.begin() as session:
            await repository.put_use(session, gateway, hottest, now=now)
        async with self._sessions.begin() as session:
            await repository.drop_use(session, before=now - _FORGOTTEN_AFTER)

    async def others_use(self, gateway: str, within_s: float) -> dict[str, float]:
        """How much all other gateways together use each engine name, by what they told in the last `within_s`."""
        since = datetime.now(UTC) - timedelta(seconds=within_s)
        together: Counter[str] = Counter()
        async with self._sessions() as session:
            for use in await repository.use_of_others(session, gateway, since=since):
                together.update(use)
        return dict(together)
