"""What is said of each adapter: how it is watched, and what Ostler may do to it by itself.

Both hold the quality rule, which is one and the same; whichever changes it, the policy gets a new number.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlmodel.ext.asyncio.session import AsyncSession

from registry import repository
from registry.errors import InvalidValue, NotFound
from registry.monitoring import Monitoring, stored_monitoring
from registry.names import check_text
from registry.policies import Policy, policy_number, stored_policy
from registry.tables import AdapterRow, PolicyRow
from registry.transactions import Change, Transactions

LONGEST_REASON = 1000


@dataclass(frozen=True, slots=True)
class _Said:
    """What is said of an adapter."""

    monitoring: Monitoring
    policy: Policy


class Rules(Transactions):
    """How each adapter is watched, and its policy."""

    async def set_monitoring(self, adapter: str, monitoring: Monitoring, *, actor: str) -> None:
        """Say how an adapter is watched, all of it; the same again is no change.

        Raises:
            NotFound: no such adapter.
            InvalidValue: a number outside what is allowed.
        """
        await self.change_monitoring(adapter, lambda _: monitoring, actor=actor)

    async def change_monitoring(self, adapter: str, wanted: Callable[[Monitoring], Monitoring], *, actor: str) -> None:
        """Say how an adapter is watched by what is said of it now, so that changes at once all stay.

        `wanted` gets what is said and returns what shall be; whatever it raises comes through, and nothing is changed.

        Raises:
            NotFound: no such adapter.
            InvalidValue: a number outside what is allowed.
        """
        async with self._change(actor) as change:
            row = await _adapter(change.session, adapter)
            said = _said(row)
            monitoring = wanted(said.monitoring)
            monitoring.check()
            before, after = msgspec.to_builtins(said.monitoring), msgspec.to_builtins(monitoring)
            if before == after:
                return
            row.monitoring = after
            if monitoring.quality != said.monitoring.quality:
                policy = msgspec.structs.replace(said.policy, quality=monitoring.quality)
                _number(change, row, policy, "the quality rule was changed with how it is watched")
            change.session.add(row)
            change.audit("set_monitoring", f"adapter:{adapter}", before=before, after=after)

    async def change_policy(
        self,
        adapter: str,
        wanted: Callable[[Policy], Policy],
        *,
        actor: str,
        reason: str = "",
        check: Callable[[Monitoring], None] = Monitoring.check,
    ) -> None:
        """Say what Ostler may do to an adapter by what is said now, as the policy's next number.

        `wanted` gets the policy and returns what shall be; what changes nothing takes no number. `check` gets how the
        adapter would be watched. Whatever the two raise comes through, and nothing is changed.

        Raises:
            NotFound: no such adapter.
            InvalidValue: a value outside what is allowed, or the reason cannot be kept.
        """
        check_text(reason, "reason", LONGEST_REASON)
        async with self._change(actor) as change:
            row = await _adapter(change.session, adapter)
            said = _said(row)
            policy = wanted(said.policy)
            before, after = msgspec.to_builtins(said.policy), _checked(policy)
            monitoring = msgspec.structs.replace(said.monitoring, quality=policy.quality)
            monitoring.check()
            policy.check()
            check(monitoring)
            added = [key for key in policy.retrain.trusted_keys if key not in said.policy.retrain.trusted_keys]
            await _require_keys(change.session, added)
            if before == after:
                return
            if monitoring != said.monitoring:
                row.monitoring = msgspec.to_builtins(monitoring)
            _number(change, row, policy, reason)
            change.session.add(row)
            change.audit("set_policy", f"adapter:{adapter}", before=before, after=after, reason=reason)

    async def policy_history(self, adapter: str, *, before: int | None = None, limit: int = 100) -> list[PolicyRow]:
        """The adapter's policies, newest first, numbered below `before` where that is given.

        Raises:
            NotFound: no such adapter.
        """
        async with self._sessions() as session:
            row = await _adapter(session, adapter)
            return list(await repository.policies_before(session, row, before, limit))


async def _adapter(session: AsyncSession, name: str) -> AdapterRow:
    row = await repository.adapter_by_name(session, name)
    if row is None:
        raise NotFound(f"there is no adapter {name!r}", param="name")
    return row


async def _require_keys(session: AsyncSession, ids: Collection[str]) -> None:
    """Refuse what is not the id of a key; one that is revoked is known still, and so are its labels."""
    known = {row.id: row.name for row in await repository.all_keys(session)} if ids else {}
    for wrong in (key for key in ids if key not in known):
        named = [key for key, name in known.items() if name == wrong]
        meant = f"; a key of that name has the id {named[0]}" if named else "; `ostler keys list` shows the ids"
        raise InvalidValue(f"retrain.trusted_keys: no key has the id {wrong!r}{meant}", param="retrain.trusted_keys")


def _said(row: AdapterRow) -> _Said:
    monitoring = stored_monitoring(row.monitoring)
    return _Said(monitoring, stored_policy(row.policy, monitoring.quality))


def _checked(policy: Policy) -> Any:
    """The policy as it is stored, once it is known to be readable again: structs made in code are not checked."""
    stored = msgspec.to_builtins(policy)
    try:
        msgspec.convert(stored, Policy)
    except msgspec.ValidationError as error:
        raise InvalidValue(f"the policy cannot be kept: {error}", param="policy") from None
    return stored


def _number(change: Change, row: AdapterRow, policy: Policy, reason: str) -> None:
    """Add the policy under the next number; the adapter's row holds what is read with every catalog."""
    assert row.id is not None
    number = policy_number(row.policy) + 1
    stored = msgspec.to_builtins(policy)
    change.session.add(PolicyRow(adapter_id=row.id, number=number, policy=stored, actor=change.actor, reason=reason))
    row.policy = {"number": number} | {name: part for name, part in stored.items() if name != "quality"}
