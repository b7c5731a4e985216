"""Webhooks as admins keep them: made, listed, switched on and off, given a new secret, deleted.

Who changes both a webhook and its deliveries begins with the webhook, so that no two wait for each other.
A secret is shown where it is made and nowhere else. It is stored as it is, for it must sign; it never comes into the
audit log.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import delete, func, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from monitors.tables import DeliveryRow, WebhookRow
from monitors.webhooks.addresses import is_link_local
from monitors.webhooks.queue import give_up
from monitors.webhooks.signing import new_secret
from registry.errors import Conflict, InvalidValue, NotFound
from registry.transactions import Transactions

LONGEST_URL = 2000
MOST = 100
SWITCHED_OFF = "the webhook is switched off"
_DELIVERIES = DeliveryRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
_WEBHOOKS = WebhookRow.__table__  # type: ignore[attr-defined]
_IS_THERE = _WEBHOOKS.c.deleted_at.is_(None)


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where events are told.

    Attributes:
        events, adapters: what is told; None is all.
        previous_until: until when the secret from before signs, too.
        disabled_at: since when nothing is told; None where it is.
    """

    id: str
    url: str
    previous_until: datetime | None
    events: tuple[str, ...] | None
    adapters: tuple[str, ...] | None
    created_by: str
    created_at: datetime
    disabled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send, and the secrets that sign it: the present one, and the one before while it still counts."""

    id: str
    url: str
    secrets: Sequence[str]


class Webhooks(Transactions):
    """Changes webhooks, each in one transaction with its audit entry."""

    async def add(
        self,
        url: str,
        *,
        events: Collection[str] | None = None,
        adapters: Collection[str] | None = None,
        actor: str,
    ) -> tuple[Webhook, str]:
        """Make one; the other part is its secret.

        Raises:
            InvalidValue: nothing can be sent to that address.
            Conflict: there are too many.
        """
        check_url(url)
        secret = new_secret()
        async with self._change(actor) as change:
            count = select(func.count()).select_from(WebhookRow).where(_IS_THERE)
            if (await change.session.exec(count)).one() >= MOST:
                raise Conflict(f"there are {MOST} webhooks, and no more can be made; delete some first")
            row = WebhookRow(
                id=token_hex(12),
                url=url,
                secret=secret,
                events=_kept(events),
                adapters=_kept(adapters),
                created_by=actor,
            )
            change.session.add(row)
            await change.session.flush()
            change.audit("create_webhook", f"webhook:{row.id}", after=_described(row))
            return _webhook(row), secret

    async def listed(self) -> list[Webhook]:
        """All of them, the oldest first."""
        query = select(WebhookRow).where(_IS_THERE).order_by(_WEBHOOKS.c.created_at, _WEBHOOKS.c.id)
        async with self._sessions() as session:
            return [_webhook(row) for row in await session.exec(query)]

    async def find(self, id: str) -> Webhook:
        """One of them.

        Raises:
            NotFound
        """
        async with self._sessions() as session:
            return _webhook(await _row(session, id))

    async def rotate(self, id: str, *, overlap: timedelta, actor: str) -> tuple[Webhook, str]:
        """Give it a new secret, the other part; for as long as `overlap` the one before signs, too.

        Raises:
            NotFound
        """
        secret = new_secret()
        async with self._change(actor) as change:
            row = await _row(change.session, id)
            until = datetime.now(UTC) + overlap
            row.previous_secret, row.previous_until = (row.secret, until) if overlap else ("", None)
            row.secret = secret
            change.audit("rotate_webhook", f"webhook:{id}", overlap_s=int(overlap.total_seconds()))
            return _webhook(row), secret

    async def switch(self, id: str, *, on: bool, actor: str) -> Webhook:
        """Have it told of events, or not; what is queued when it is switched off is given up.

        Raises:
            NotFound
        """
        async with self._change(actor) as change:
            row = await _row(change.session, id)
            if (row.disabled_at is None) != on:
                row.disabled_at = None if on else datetime.now(UTC)
                await change.session.flush()
                if not on:
                    await give_up(await change.session.connection(), id, SWITCHED_OFF)
                change.audit("enable_webhook" if on else "disable_webhook", f"webhook:{id}")
            return _webhook(row)

    async def remove(self, id: str, *, actor: str) -> Webhook:
        """Delete it, with its secrets and all that it was not told yet.

        Raises:
            NotFound
        """
        async with self._change(actor) as change:
            row = await _row(change.session, id)
            row.secret, row.previous_secret, row.deleted_at = "", "", datetime.now(UTC)
            await change.session.flush()
            undelivered = (_DELIVERIES.c.webhook == id) & (_DELIVERIES.c.state != "delivered")
            await (await change.session.connection()).execute(delete(_DELIVERIES).where(undelivered))
            change.audit("delete_webhook", f"webhook:{id}", before=_described(row))
            return _webhook(row)


async def find_target(connection: AsyncConnection, id: str, now: datetime) -> Target | None:
    """Where to send; None if it was deleted, or is switched off."""
    query = _WEBHOOKS.select().where(_WEBHOOKS.c.id == id, _IS_THERE, _WEBHOOKS.c.disabled_at.is_(None))
    row = (await connection.execute(query)).first()
    if row is None:
        return None
    overlaps = row.previous_until is not None and now < row.previous_until
    return Target(id, row.url, (row.secret, row.previous_secret) if overlaps else (row.secret,))


async def switch_off(connection: AsyncConnection, id: str, now: datetime) -> None:
    """Tell it nothing any more, for its receiver said so; what is queued for it is the caller's to give up."""
    is_on = (_WEBHOOKS.c.id == id) & _WEBHOOKS.c.disabled_at.is_(None)
    await connection.execute(update(_WEBHOOKS).where(is_on).values(disabled_at=now))


def check_url(url: str) -> str:
    """Return `url` if something can be sent there.

    Raises:
        InvalidValue: it is no address of a web server, one with a user and password, or a link-local one.
    """
    if len(url) > LONGEST_URL:
        raise InvalidValue(f"the address may have {LONGEST_URL} characters at most", param="url")
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise InvalidValue("the address may have printable ASCII characters alone, and no spaces", param="url")
    try:
        parts = urlsplit(url)
        is_complete = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_complete = False
    if not is_complete:
        raise InvalidValue("the address must be like https://example.com/hooks", param="url")
    if "@" in parts.netloc or parts.fragment:
        raise InvalidValue("the address may have no user, no password and no #fragment", param="url")
    if is_link_local(parts.hostname or ""):
        raise InvalidValue(
            "the address is link-local (169.254.0.0/16, fe80::/10): no receiver can be there", param="url"
        )
    return url


async def _row(session: AsyncSession, id: str) -> WebhookRow:
    row = (await session.exec(select(WebhookRow).where(_WEBHOOKS.c.id == id, _IS_THERE))).one_or_none()
    if row is None:
        raise NotFound("there is no webhook of this id", param="id")
    return row


def _kept(names: Collection[str] | None) -> list[str] | None:
    return None if names is None else sorted(set(names))


def _names(kept: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if kept is None else tuple(kept)


def _webhook(row: WebhookRow) -> Webhook:
    return Webhook(
        id=row.id,
        url=row.url,
        previous_until=row.previous_until,
        events=_names(row.events),
        adapters=_names(row.adapters),
        created_by=row.created_by,
        created_at=row.created_at,
        disabled_at=row.disabled_at,
    )


def _described(row: WebhookRow) -> dict[str, Any]:
    """A webhook as the audit log keeps it: without the address's path, which may be a secret of the receiver's."""
    parts = urlsplit(row.url)
    return {"to": f"{parts.scheme}://{parts.netloc}", "events": row.events, "adapters": row.adapters}
