"""Changes of API keys: made, changed, rotated, revoked. No hash and no secret comes into the audit log."""

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from registry import keys, mapping, repository
from registry.catalog import ApiKey, KeyLimits, Scope
from registry.deployments import UNSET, Unset
from registry.errors import Conflict, InvalidValue, NotFound
from registry.names import check_text
from registry.tables import ApiKeyRow
from registry.transactions import Change, Transactions

LONGEST_NAME = 120
LONGEST_OVERLAP = timedelta(days=366)
_LARGEST_LIMIT = 2**31 - 1


class Keys(Transactions):
    """The API keys. A key's id, and what is counted under it, stay the same whatever changes."""

    async def create_key(
        self,
        name: str,
        *,
        scopes: frozenset[Scope],
        adapters: frozenset[str] | None = None,
        limits: KeyLimits = KeyLimits(),  # noqa: B008 - it is immutable
        expires_at: datetime | None = None,
        actor: str,
    ) -> tuple[ApiKey, str]:
        """Make an API key; the second value is the key itself, which nobody can read again.

        Raises:
            InvalidValue: no scope, an admin limited to adapters, a limit below 1, or an expiry without time zone.
        """
        secret = keys.generate()
        row = _new_row(secret, actor, _columns(name, scopes, adapters, limits, expires_at))
        async with self._change(actor) as change:
            change.session.add(row)
            key = mapping.to_key(row)
            change.audit("create_key", f"key:{row.id}", after=_describe(key))
        return key, secret

    async def ensure_key(self, name: str, secret: str, *, scopes: frozenset[Scope], actor: str) -> tuple[ApiKey, bool]:
        """Have a secret that was made elsewhere open a key of these scopes; the second value says whether that is new.

        Raises:
            InvalidValue: the secret can be guessed, or is no secret that a client could send; or no scope.
            Conflict: it is that of a key which is revoked or expired, has another secret or other rights now, or is
                limited.
        """
        keys.check_secret(secret)
        async with self._change(actor) as change:
            held = await repository.key_by_hash(change.session, keys.hash_key(secret))
            if held is not None:
                _require_fit(held, keys.hash_key(secret), scopes)
                return mapping.to_key(held), False
            row = _new_row(secret, actor, _columns(name, scopes, None, KeyLimits(), None))
            change.session.add(row)
            key = mapping.to_key(row)
            change.audit("create_key", f"key:{row.id}", after=_describe(key))
        return key, True

    async def update_key(
        self,
        key_id: str,
        *,
        name: str | Unset = UNSET,
        scopes: frozenset[Scope] | Unset = UNSET,
        adapters: frozenset[str] | Unset | None = UNSET,
        limits: KeyLimits | Mapping[str, Any] | Unset = UNSET,
        expires_at: datetime | Unset | None = UNSET,
        actor: str,
    ) -> ApiKey:
        """Change what a key may do; what is left out stays. `limits` as a mapping changes those that it names.

        Raises:
            NotFound: no such key.
            Conflict: it is revoked, or no admin could get in any more.
            InvalidValue: as in `create_key`.
        """
        async with self._changed_key(key_id, "update_key", actor) as row:
            old = mapping.to_key(row)
            columns = _columns(
                old.name if isinstance(name, Unset) else name,
                old.scopes if isinstance(scopes, Unset) else scopes,
                old.adapters if isinstance(adapters, Unset) else adapters,
                _changed_limits(old.limits, limits),
                old.expires_at if isinstance(expires_at, Unset) else expires_at,
            )
            if isinstance(scopes, Unset):
                del columns["scopes"]  # the row may have some that only the next program knows
            for column, value in columns.items():
                setattr(row, column, value)
        return mapping.to_key(row)

    async def rotate_key(self, key_id: str, *, overlap: timedelta, actor: str) -> tuple[ApiKey, str]:
        """Give a key a new secret, the second value; the old one stays valid for `overlap` more.

        There are two at most: the one before the old one ends at once. Each stays known after its time, so that
        `ensure_key` does not make it a key again.

        Raises:
            NotFound: no such key.
            Conflict: it is revoked; or it is the last key of an admin and there is no overlap, so that nobody could
                get in if the answer were lost.
            InvalidValue: the overlap is negative or longer than a year.
        """
        if not timedelta(0) <= overlap <= LONGEST_OVERLAP:
            raise InvalidValue(f"the overlap must be from 0 to {LONGEST_OVERLAP.days} days", param="overlap")
        secret = keys.generate()
        async with self._changed_key(key_id, "rotate_key", actor, ends=not overlap) as row:
            row.previous_hash, row.previous_until = row.hash, datetime.now(UTC) + overlap
            row.hash, row.hint = keys.hash_key(secret), keys.hint(secret)
        return mapping.to_key(row), secret

    async def revoke_key(self, key_id: str, *, actor: str) -> ApiKey:
        """Take a key's rights for good, those of both of its secrets; revoking it again changes nothing.

        Raises:
            NotFound: no such key.
            Conflict: it is the last key of an admin.
        """
        async with self._change(actor) as change:
            row = await _row(change.session, key_id)
            if row.revoked_at is None:
                before = mapping.to_key(row)
                if _lets_an_admin_in(before):
                    await _require_another_admin(change.session, key_id)
                row.revoked_at = datetime.now(UTC)
                row.previous_until = min(row.previous_until, row.revoked_at) if row.previous_until else None
                _audit_change(change, "revoke_key", before, row)
        return mapping.to_key(row)

    async def list_keys(self) -> list[ApiKey]:
        """Every key, oldest first, revoked ones too."""
        async with self._sessions() as session:
            return [mapping.to_key(row) for row in await repository.all_keys(session)]

    @asynccontextmanager
    async def _changed_key(
        self, key_id: str, action: str, actor: str, *, ends: bool = False
    ) -> AsyncIterator[ApiKeyRow]:
        """The row of a key in force, to be changed in the block; nothing is written if the block changes nothing.

        `ends` says that what its holder has does not open it any more after that.
        """
        async with self._change(actor) as change:
            row = await _row(change.session, key_id)
            if row.revoked_at is not None:
                raise Conflict(f"the key {key_id!r} is revoked, which is for good; make another", param="id")
            before, oldest = mapping.to_key(row), row.previous_hash
            yield row
            if oldest is not None and oldest != row.previous_hash:
                repository.retire_secret(change.session, oldest, row)
            if _lets_an_admin_in(before) and (ends or not _lets_an_admin_in(mapping.to_key(row))):
                await _require_another_admin(change.session, key_id)
            _audit_change(change, action, before, row)


def _new_row(secret: str, actor: str, columns: Mapping[str, Any]) -> ApiKeyRow:
    return ApiKeyRow(id=keys.new_id(), hash=keys.hash_key(secret), hint=keys.hint(secret), created_by=actor, **columns)


def _require_fit(row: ApiKeyRow, hash: str, scopes: frozenset[Scope]) -> None:
    """Refuse a secret that somebody has taken the rights of, as it may have leaked, or that opens more or less."""
    key = mapping.to_key(row)
    wrong, right = None, "take another secret"
    if row.revoked_at is not None:
        wrong = "is revoked, which is for good"
    elif row.hash != hash:
        wrong = "has another secret since a rotation"
    elif _rights(key.scopes) != _rights(scopes):
        wrong = f"has other rights: {', '.join(sorted(key.scopes))}"
    elif key.adapters is not None:
        wrong = "is limited to some adapters"
    elif key.limits != KeyLimits():
        wrong, right = "has limits of its own", f"remove its limits, or {right}"
    elif not _is_in_force(key):
        wrong = "has expired"
    if wrong:
        raise Conflict(f"the secret is that of the key {row.id!r}, which {wrong}; {right}", param="secret")


async def _row(session: AsyncSession, key_id: str) -> ApiKeyRow:
    row = await repository.key_by_id(session, key_id)
    if row is None:
        raise NotFound("there is no key of this id", param="id")
    return row


def _rights(scopes: frozenset[Scope]) -> frozenset[Scope]:
    return frozenset({Scope.ADMIN}) if Scope.ADMIN in scopes else scopes


def _is_in_force(key: ApiKey) -> bool:
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > datetime.now(UTC))


def _lets_an_admin_in(key: ApiKey) -> bool:
    return _is_in_force(key) and Scope.ADMIN in key.scopes


async def _require_another_admin(session: AsyncSession, key_id: str) -> None:
    """Refuse what would leave nobody who can make keys. Changes come one after the other, so two cannot both pass."""
    rows = await repository.all_keys(session)
    if not any(row.id != key_id and _lets_an_admin_in(mapping.to_key(row)) for row in rows):
        raise Conflict("this is the last key with which an admin can get in; make another admin key first", param="id")


def _changed_limits(old: KeyLimits, change: KeyLimits | Mapping[str, Any] | Unset) -> KeyLimits:
    if isinstance(change, Unset):
        return old
    return change if isinstance(change, KeyLimits) else replace(old, **change)


def _audit_change(change: Change, action: str, before: ApiKey, row: ApiKeyRow) -> None:
    after = mapping.to_key(row)
    if action == "rotate_key":
        until = row.previous_until.isoformat() if row.previous_until else None
        change.audit(
            action, f"key:{row.id}", before=_describe(before), after=_describe(after), old_secret_valid_until=until
        )
    elif after != before:
        change.audit(action, f"key:{row.id}", before=_describe(before), after=_describe(after))


def _columns(
    name: str,
    scopes: frozenset[Scope],
    adapters: frozenset[str] | None,
    limits: KeyLimits,
    expires_at: datetime | None,
) -> dict[str, Any]:
    """The checked columns of what a person decides about a key."""
    if not scopes:
        raise InvalidValue("a key needs at least one scope", param="scopes")
    if adapters is not None and Scope.ADMIN in scopes:
        raise InvalidValue("an admin key cannot be limited to some adapters", param="adapters")
    if adapters is not None and Scope.METRICS in scopes:
        raise InvalidValue("metrics are of all adapters; their key cannot be limited to some", param="adapters")
    if expires_at is not None and expires_at.tzinfo is None:
        raise InvalidValue("expires_at needs a time zone, such as a Z at its end", param="expires_at")
    for adapter in adapters or ():
        check_text(adapter, "adapters", 255)
    return {
        "name": check_text(name, "name", LONGEST_NAME),
        "scopes": sorted(scope.value for scope in scopes),
        "adapters": None if adapters is None else sorted(adapters),
        "expires_at": expires_at,
        **_limit_columns(limits),
    }


def _limit_columns(limits: KeyLimits) -> dict[str, int | float | None]:
    columns: dict[str, int | float | None] = asdict(limits)
    for name, value in columns.items():
        if name == "monthly_budget":
            if value is not None and not 0 <= value < math.inf:
                raise InvalidValue("monthly_budget must be a sum of money from 0", param=name)
        elif value is not None and not 1 <= value <= _LARGEST_LIMIT:
            raise InvalidValue(f"{name} must be a whole number from 1 to {_LARGEST_LIMIT}", param=name)
    return columns


def _describe(key: ApiKey) -> dict[str, Any]:
    """A key as the audit log keeps it."""
    return {
        "name": key.name,
        "hint": key.hint,
        "scopes": sorted(scope.value for scope in key.scopes),
        "adapters": None if key.adapters is None else sorted(key.adapters),
        "limits": asdict(key.limits),
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
    }
