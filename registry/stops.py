"""What stops automatic change at once: a pause of one adapter, or a freeze of all. A person's change is not held up.

A policy whose mode is not to act stops it too (`registry.policies`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlmodel.ext.asyncio.session import AsyncSession

from registry import repository
from registry.errors import NotFound, Stopped
from registry.monitoring import QualityRule
from registry.names import check_text
from registry.policies import stored_policy
from registry.tables import StopRow
from registry.transactions import Change, Transactions

EVERYTHING = ""
"""Under this name stands the freeze of all adapters."""
LONGEST_REASON = 1000


@dataclass(frozen=True, slots=True)
class Stop:
    """Who stopped automatic change, why, and when."""

    actor: str
    reason: str
    created_at: datetime

    def __str__(self) -> str:
        """As it stands in sentences."""
        return f"by {self.actor}" + (f" ({self.reason})" if self.reason else "")


class Stops(Transactions):
    """Pauses of adapters, and the freeze."""

    async def stop(self, adapter: str | None, *, actor: str, reason: str = "") -> Stop:
        """Stop automatic change of one adapter, or of all where it is None; what is stopped already stays so.

        Once this returns no automatic change is made any more: each asks for stops in its own transaction, and
        transactions that change anything come one after another.

        Raises:
            NotFound: no such adapter.
            InvalidValue: the reason cannot be kept.
        """
        check_text(reason, "reason", LONGEST_REASON)
        async with self._change(actor) as change:
            await _require_known(change.session, adapter)
            name = adapter or EVERYTHING
            row = await repository.stop_of(change.session, name)
            if row is None:
                row = StopRow(adapter=name, actor=actor, reason=reason)
                change.session.add(row)
                _audit(change, adapter, "freeze" if adapter is None else "pause", reason)
            return _to_stop(row)

    async def go_on(self, adapter: str | None, *, actor: str, reason: str = "") -> None:
        """Take the stop of one adapter away, or the freeze where it is None; does nothing where there is none.

        An adapter that is not paused itself may still be stopped by the freeze.

        Raises:
            NotFound: no such adapter.
            InvalidValue: the reason cannot be kept.
        """
        check_text(reason, "reason", LONGEST_REASON)
        async with self._change(actor) as change:
            await _require_known(change.session, adapter)
            row = await repository.stop_of(change.session, adapter or EVERYTHING)
            if row is not None:
                await change.session.delete(row)
                _audit(change, adapter, "unfreeze" if adapter is None else "resume", reason)

    async def stops(self) -> Mapping[str, Stop]:
        """What is stopped, by the adapter's name; `EVERYTHING` is the freeze."""
        async with self._sessions() as session:
            return {row.adapter: _to_stop(row) for row in await repository.all_stops(session)}


async def require_going(session: AsyncSession, adapter: str) -> None:
    """Refuse an automatic change of an adapter that is stopped, or whose policy's mode is not to act.

    Raises:
        Stopped
    """
    if (frozen := await repository.stop_of(session, EVERYTHING)) is not None:
        raise Stopped(f"all automatic change was frozen {_to_stop(frozen)}")
    if (paused := await repository.stop_of(session, adapter)) is not None:
        raise Stopped(f"automatic change of {adapter!r} was paused {_to_stop(paused)}")
    row = await repository.adapter_by_name(session, adapter)
    mode = stored_policy(row.policy if row else None, QualityRule()).mode
    if mode != "act":
        raise Stopped(f"the mode of the policy of {adapter!r} is {mode}: nothing changes it by itself")


async def _require_known(session: AsyncSession, adapter: str | None) -> None:
    if adapter is not None and await repository.adapter_by_name(session, adapter) is None:
        raise NotFound(f"there is no adapter {adapter!r}", param="name")


def _to_stop(row: StopRow) -> Stop:
    return Stop(row.actor, row.reason, row.created_at)


def _audit(change: Change, adapter: str | None, action: str, reason: str) -> None:
    change.audit(action, "adapters" if adapter is None else f"adapter:{adapter}", reason=reason)
