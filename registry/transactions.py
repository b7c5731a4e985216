"""The one commit point: every change is a numbered transaction that leaves an audit entry, or nothing at all."""

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, async_sessionmaker
from sqlmodel.ext.asyncio.session import AsyncSession

from registry import repository
from registry.tables import AuditRow

log = logging.getLogger(__name__)

Guard = Callable[[AsyncConnection], Awaitable[None]]
"""Called in a transaction before anything is changed; what it raises comes through, and nothing is changed."""


@dataclass(slots=True)
class Change:
    """A transaction under way, its number and who it is for."""

    session: AsyncSession
    number: int
    actor: str
    done: list[str] = field(default_factory=list)

    @property
    def audited(self) -> bool:
        """Whether it did anything."""
        return bool(self.done)

    @property
    def outcome(self) -> int:
        """The number of the newest change once this one has ended; one that did nothing takes no number."""
        return self.number if self.audited else self.number - 1

    def audit(
        self,
        action: str,
        subject: str,
        *,
        before: dict[str, Any] | None = None,
        after: dict[str, Any] | None = None,
        **detail: Any,
    ) -> None:
        """Note what this change does. Without such a note nothing of it is kept."""
        self.session.add(
            AuditRow(
                change=self.number,
                actor=self.actor,
                action=action,
                subject=subject,
                before=before,
                after=after,
                detail=detail or None,
            )
        )
        revision = f" revision {after['revision']}" if after and "revision" in after else ""
        self.done.append(f"{action} {subject}{revision}")


class Transactions:
    """The base of what changes the registry.

    Args:
        engine: the database, its schema up to date.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)

    @contextlib.asynccontextmanager
    async def _change(self, actor: str, guard: Guard | None = None) -> AsyncIterator[Change]:
        """Commit what was audited, and tell other gateways. The counter is raised first: it orders changes."""
        async with self._sessions() as session:
            change = Change(session, await repository.begin_change(session), actor)
            if guard is not None:
                await guard(await session.connection())
            yield change
            if change.audited:
                await repository.notify(session, change.number)
                await session.commit()
        for done in change.done:
            log.info("%s by %s", done, actor)

    async def change_number(self) -> int:
        """The number of the newest change; cheap, for polling."""
        async with self._sessions() as session:
            return await repository.change_number(session)

    async def audit(self, *, before: int | None = None, limit: int = 100) -> list[AuditRow]:
        """Up to `limit` audit entries, newest first, with ids below `before` where that is given."""
        async with self._sessions() as session:
            return list(await repository.audit_before(session, before, limit))

    async def note(self, action: str, subject: str, *, actor: str, **detail: Any) -> None:
        """Leave an audit entry for what an admin did outside of the registry's own tables."""
        async with self._change(actor) as change:
            change.audit(action, subject, **detail)
