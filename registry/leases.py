"""Leases: what only one process may do at a time, held by name until they run out."""

from datetime import UTC, datetime, timedelta

from registry import repository
from registry.transactions import Transactions


class Leases(Transactions):
    """Taking, renewing and giving back. A lease is no change of the registry: it raises no counter, audits nothing."""

    async def acquire_lease(self, name: str, holder: str, ttl_s: float) -> bool:
        """Hold the lease for `ttl_s` seconds from now; also renews it. False while somebody else holds it.

        Time is this machine's clock, so the clocks of the holders may differ by no more than the time they leave
        between renewing and running out.
        """
        now = datetime.now(UTC)
        async with self._sessions.begin() as session:
            return await repository.take_lease(session, name, holder, now=now, until=now + timedelta(seconds=ttl_s))

    async def release_lease(self, name: str, holder: str) -> None:
        """Give the lease back at once; does nothing if somebody else holds it."""
        async with self._sessions.begin() as session:
            await repository.drop_lease(session, name, holder)
