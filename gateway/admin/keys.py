"""API keys: made, changed, replaced and revoked."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from litestar import Controller, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, UnsetType

from gateway.admin.fields import NO_NUL
from gateway.directory import Directory
from gateway.errors import InvalidRequest
from gateway.json_body import StrictRequest
from gateway.limits.budgets import Budgets
from gateway.refusals import refusals
from gateway.shapes import KeyShape, NewKeyShape, Page, key_shape
from registry import deployments
from registry.catalog import ApiKey, KeyLimits, Scope
from registry.errors import InvalidValue, NotFound
from registry.registry import Registry

_LATEST_EXPIRY = datetime(9000, 1, 1, tzinfo=UTC)
_YEAR_S = 31_536_000
_Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_Money = Annotated[float, msgspec.Meta(gt=0, le=1e12)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=80, pattern=NO_NUL)]
_Scopes = Annotated[list[Scope], msgspec.Meta(min_length=1, max_length=len(Scope))]
_Adapters = Annotated[list[Annotated[str, msgspec.Meta(max_length=255, pattern=NO_NUL)]], msgspec.Meta(max_length=1000)]
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class LimitsOrder(msgspec.Struct, forbid_unknown_fields=True):
    """How much the key may use; null is without limit, and so is what is left out of a new key."""

    requests_per_minute: _Count | UnsetType | None = UNSET
    tokens_per_minute: _Count | UnsetType | None = UNSET
    concurrent_requests: _Count | UnsetType | None = UNSET
    monthly_budget: _Money | UnsetType | None = UNSET


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """The key to make. `adapters` limits it to those names (a base model's name counts, too)."""

    name: _Name
    scopes: _Scopes = msgspec.field(default_factory=lambda: [Scope.INFERENCE, Scope.FEEDBACK])
    adapters: _Adapters | None = None
    limits: LimitsOrder | None = None
    expires_at: _Moment | None = None


class KeyPatch(msgspec.Struct, forbid_unknown_fields=True):
    """What shall change of a key; what is left out stays, also of its limits."""

    name: _Name | UnsetType = UNSET
    scopes: _Scopes | UnsetType = UNSET
    adapters: _Adapters | UnsetType | None = UNSET
    limits: LimitsOrder | UnsetType | None = UNSET
    expires_at: _Moment | UnsetType | None = UNSET


class RotationOrder(msgspec.Struct, forbid_unknown_fields=True):
    """How long the old secret stays valid beside the new one."""

    overlap_s: Annotated[int, msgspec.Meta(ge=0, le=_YEAR_S)] = 86_400


class KeyController(Controller):
    """API keys."""

    path = "/keys"
    tags = ("Keys",)
    request_class = StrictRequest

    @post("/", summary="Create a key", responses=refusals(413))
    async def create(
        self,
        data: JSONBody[NewKey],
        registry: NamedDependency[Registry],
        directory: NamedDependency[Directory],
        actor: NamedDependency[str],
    ) -> NewKeyShape:
        """Make a key; its secret is in this answer and nowhere else."""
        made = await create_key(registry, data, actor=actor)
        await directory.refresh()
        return made

    @get("/", summary="List keys", responses=refusals())
    async def list_keys(self, registry: NamedDependency[Registry], budgets: NamedDependency[Budgets]) -> Page[KeyShape]:
        """Every key, oldest first, revoked ones too; never a secret."""
        return Page([_shape(key, budgets) for key in await registry.list_keys()])

    @get("/{key_id:str}", summary="Show a key", responses=refusals(404))
    async def show(
        self, key_id: FromPath[str], registry: NamedDependency[Registry], budgets: NamedDependency[Budgets]
    ) -> KeyShape:
        """One key; never its secret."""
        return _shape(await _key(registry, key_id), budgets)

    @patch("/{key_id:str}", summary="Change a key", responses=refusals(404, 409, 413))
    async def change(
        self,
        key_id: FromPath[str],
        data: JSONBody[KeyPatch],
        registry: NamedDependency[Registry],
        directory: NamedDependency[Directory],
        budgets: NamedDependency[Budgets],
        actor: NamedDependency[str],
    ) -> KeyShape:
        """Change what a key may do; answers when it holds at this gateway."""
        key = await change_key(registry, key_id, data, actor=actor)
        await directory.refresh()
        return _shape(key, budgets)

    @post("/{key_id:str}/rotate", summary="Replace a key's secret", status_code=200, responses=refusals(404, 409, 413))
    async def rotate(
        self,
        key_id: FromPath[str],
        registry: NamedDependency[Registry],
        directory: NamedDependency[Directory],
        budgets: NamedDependency[Budgets],
        actor: NamedDependency[str],
        data: JSONBody[RotationOrder | None] = None,
    ) -> NewKeyShape:
        """Give the key a new secret, which is in this answer and nowhere else; the old one works on for a while."""
        overlap = timedelta(seconds=(data or RotationOrder()).overlap_s)
        key, secret = await registry.rotate_key(key_id, overlap=overlap, actor=actor)
        await directory.refresh()
        return NewKeyShape(secret, _shape(key, budgets))

    @delete("/{key_id:str}", summary="Revoke a key", status_code=200, responses=refusals(404, 409))
    async def revoke(
        self,
        key_id: FromPath[str],
        registry: NamedDependency[Registry],
        directory: NamedDependency[Directory],
        budgets: NamedDependency[Budgets],
        actor: NamedDependency[str],
    ) -> KeyShape:
        """Take a key's rights for good, those of a secret that was replaced too."""
        key = await registry.revoke_key(key_id, actor=actor)
        await directory.refresh()
        return _shape(key, budgets)


async def create_key(registry: Registry, order: NewKey, *, actor: str) -> NewKeyShape:
    """Make a key as ordered.

    Raises:
        InvalidRequest: the order makes no sense.
    """
    _require_future(order.expires_at)
    with _wrong_fields():
        key, secret = await registry.create_key(
            order.name,
            scopes=frozenset(order.scopes),
            adapters=_names(order.adapters),
            limits=KeyLimits(**_said(order.limits)) if order.limits else KeyLimits(),
            expires_at=order.expires_at,
            actor=actor,
        )
    return NewKeyShape(secret, key_shape(key, spent=0.0))


async def change_key(registry: Registry, key_id: str, order: KeyPatch, *, actor: str) -> ApiKey:
    """Change a key as ordered, in one transaction: of two changes at once, neither takes back the other.

    Raises:
        InvalidRequest: the order makes no sense, or none for this key.
        NotFound: no such key.
        Conflict: it is revoked, or the last key of an admin.
    """
    stays = deployments.UNSET
    _require_future(None if order.expires_at is UNSET else order.expires_at)
    with _wrong_fields():
        return await registry.update_key(
            key_id,
            name=stays if order.name is UNSET else order.name,
            scopes=stays if order.scopes is UNSET else frozenset(order.scopes),
            adapters=stays if order.adapters is UNSET else _names(order.adapters),
            limits=stays if order.limits is UNSET else _said(order.limits) if order.limits else KeyLimits(),
            expires_at=stays if order.expires_at is UNSET else order.expires_at,
            actor=actor,
        )


async def _key(registry: Registry, key_id: str) -> ApiKey:
    found = next((key for key in await registry.list_keys() if key.id == key_id), None)
    if found is None:
        raise NotFound("there is no key of this id", param="id")
    return found


def _names(adapters: list[str] | None) -> frozenset[str] | None:
    return None if adapters is None else frozenset(adapters)


def _shape(key: ApiKey, budgets: Budgets) -> KeyShape:
    return key_shape(key, spent=max(0.0, budgets.spent(key.id)))


def _require_future(expires_at: datetime | None) -> None:
    if expires_at is not None and not datetime.now(UTC) < expires_at < _LATEST_EXPIRY:
        raise InvalidRequest("the key must expire in the future, before the year 9000", param="expires_at")


@contextmanager
def _wrong_fields() -> Iterator[None]:
    """What the registry finds wrong in an order is told like what the body's own types do not let through."""
    try:
        yield
    except InvalidValue as error:
        raise InvalidRequest(error.message, param=error.param) from None


def _said(limits: LimitsOrder) -> dict[str, Any]:
    """The limits that the order names."""
    return {name: value for name, value in msgspec.structs.asdict(limits).items() if value is not UNSET}
