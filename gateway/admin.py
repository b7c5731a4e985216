"""What operators do: push versions, promote, roll back, look back, and hand out keys. All under /admin/v1."""

import asyncio
import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.exceptions import ClientException
from litestar.params import FromPath, JSONBody, QueryParameter

from gateway.directory import Directory
from gateway.errors import BodyTooLarge, InvalidRequest
from gateway.replica import Replica
from gateway.settings import GatewaySettings
from gateway.shapes import (
    AdapterShape,
    KeyShape,
    NewKeyShape,
    Page,
    PushedShape,
    ReplicaShape,
    RevisionShape,
    adapter_shape,
    key_shape,
    revision_shape,
    version_shape,
)
from gateway.swap import Swapper
from gateway.web import AnyRequest
from registry.archive import UnpackLimits, unpack
from registry.artifacts import store_failures
from registry.catalog import Adapter, Role
from registry.errors import NotFound
from registry.names import check_adapter_name
from registry.registry import Registry

_UPLOADS = "uploads"
_LOCK = "lock"
_NO_NUL = r"^[^\x00]*$"  # which PostgreSQL's texts cannot hold
_LATEST_EXPIRY = datetime(9000, 1, 1, tzinfo=UTC)
Text = Annotated[str, msgspec.Meta(max_length=1000, pattern=_NO_NUL)]
Number = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class DeploymentPatch(msgspec.Struct, forbid_unknown_fields=True):
    """What shall change of a deployment; `stable` is a version's number."""

    stable: Number
    reason: Text = ""


class RollbackOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Which revision to restore; none means what served before the present state."""

    to: Number | None = None
    reason: Text = ""


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """The key to make. `adapters` limits it to those names (a base model's name counts, too)."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=80, pattern=_NO_NUL)]
    role: str = Role.CLIENT
    adapters: list[str] | None = None
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class AdapterController(Controller):
    """Adapters, their versions and deployments."""

    path = "/adapters"
    tags = ("Adapters",)

    @get("/", summary="List adapters")
    async def list_adapters(
        self, directory: NamedDependency[Directory], replica: NamedDependency[Replica]
    ) -> Page[AdapterShape]:
        """Every adapter with its deployment and versions, by name."""
        resident = frozenset(replica.resident)
        return Page([adapter_shape(adapter, resident) for adapter in directory.catalog.adapters.values()])

    @get("/{name:str}", summary="Show an adapter")
    async def show(
        self, name: FromPath[str], directory: NamedDependency[Directory], replica: NamedDependency[Replica]
    ) -> AdapterShape:
        """One adapter with its deployment and versions."""
        return adapter_shape(_adapter(directory, name), frozenset(replica.resident))

    @post("/{name:str}/versions", summary="Push a version", request_max_body_size=None)
    async def push(
        self,
        name: FromPath[str],
        request: AnyRequest,
        settings: NamedDependency[GatewaySettings],
        registry: NamedDependency[Registry],
        directory: NamedDependency[Directory],
        replica: NamedDependency[Replica],
        actor: NamedDependency[str],
        base: Annotated[str | None, QueryParameter(name="base", max_length=255)] = None,
        note: Annotated[str, QueryParameter(name="note", max_length=1000, pattern=_NO_NUL)] = "",
    ) -> Response[PushedShape]:
        """Register a PEFT LoRA folder, sent as a tar, tar.gz or zip, as the adapter's next version.

        201 for a new version, 200 if the adapter has this content already.
        """
        check_adapter_name(name, frozenset(registry.bases))
        async with _uploaded(request, settings) as folder:
            pushed = await registry.push(name, folder, actor=actor, base=base, note=note)
        await directory.refresh()
        live = _adapter(directory, name).stable
        shape = version_shape(pushed.version, live.engine_name if live else None, frozenset(replica.resident))
        answer = PushedShape(name, pushed.created, shape)
        return Response(answer, status_code=201 if pushed.created else 200)

    @patch("/{name:str}/deployment", summary="Change what an adapter's name serves")
    async def deploy(
        self,
        name: FromPath[str],
        data: JSONBody[DeploymentPatch],
        swapper: NamedDependency[Swapper],
        replica: NamedDependency[Replica],
        actor: NamedDependency[str],
    ) -> AdapterShape:
        """Load and probe the version, then make it live; answers when it is served."""
        adapter = await swapper.promote(name, data.stable, actor=actor, reason=data.reason)
        return adapter_shape(adapter, frozenset(replica.resident))

    @post("/{name:str}/rollback", summary="Roll back", status_code=200)
    async def rollback(
        self,
        name: FromPath[str],
        swapper: NamedDependency[Swapper],
        replica: NamedDependency[Replica],
        actor: NamedDependency[str],
        data: JSONBody[RollbackOrder | None] = None,
    ) -> AdapterShape:
        """Restore an earlier revision of the deployment, as a new revision; answers when it is served."""
        order = data or RollbackOrder()
        adapter = await swapper.rollback(name, to=order.to, actor=actor, reason=order.reason)
        return adapter_shape(adapter, frozenset(replica.resident))

    @get("/{name:str}/history", summary="List a deployment's revisions")
    async def history(
        self,
        name: FromPath[str],
        registry: NamedDependency[Registry],
        limit: Annotated[int, QueryParameter(name="limit", ge=1, le=1000)] = 100,
        before: Annotated[int | None, QueryParameter(name="before", ge=1, le=2**31 - 1)] = None,
    ) -> Page[RevisionShape]:
        """Newest first; `before` goes on from a revision's number."""
        rows = await registry.history(name, before=before, limit=limit + 1)
        return Page([revision_shape(row) for row in rows[:limit]], has_more=len(rows) > limit)


class KeyController(Controller):
    """API keys."""

    path = "/keys"
    tags = ("Keys",)

    @post("/", summary="Create a key")
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

    @get("/", summary="List keys")
    async def list_keys(self, registry: NamedDependency[Registry]) -> Page[KeyShape]:
        """Every key, oldest first, revoked ones too; never a secret."""
        return Page([key_shape(key) for key in await registry.list_keys()])

    @delete("/{key_id:str}", summary="Revoke a key", status_code=200)
    async def revoke(
        self,
        key_id: FromPath[str],
        registry: NamedDependency[Registry],
        directory: NamedDependency[Directory],
        actor: NamedDependency[str],
    ) -> KeyShape:
        """Take a key's rights for good."""
        key = await registry.revoke_key(key_id, actor=actor)
        await directory.refresh()
        return key_shape(key)


class ReplicaController(Controller):
    """Engines."""

    path = "/replicas"
    tags = ("Replicas",)

    @get("/", summary="List replicas")
    async def list_replicas(self, replica: NamedDependency[Replica]) -> Page[ReplicaShape]:
        """Each engine with its state and what is loaded in it."""
        shape = ReplicaShape(
            replica.id, replica.engine.base, replica.state, replica.in_flight, replica.resident, replica.problem
        )
        return Page([shape])


async def create_key(registry: Registry, order: NewKey, *, actor: str) -> NewKeyShape:
    """Make a key as ordered.

    Raises:
        InvalidRequest: the order makes no sense.
    """
    role = _role(order.role)
    if order.adapters is not None and role is Role.ADMIN:
        raise InvalidRequest("an admin key cannot be limited to some adapters", param="adapters")
    if order.expires_at is not None and not datetime.now(UTC) < order.expires_at < _LATEST_EXPIRY:
        raise InvalidRequest("the key must expire in the future, before the year 9000", param="expires_at")
    limited = None if order.adapters is None else frozenset(order.adapters)
    key, secret = await registry.create_key(
        order.name, role=role, adapters=limited, expires_at=order.expires_at, actor=actor
    )
    return NewKeyShape(secret, key_shape(key))


def _role(name: str) -> Role:
    try:
        return Role(name)
    except ValueError:
        known = " or ".join(repr(role.value) for role in Role)
        raise InvalidRequest(f"the role must be {known}, not {name[:80]!r}", param="role") from None


def _adapter(directory: Directory, name: str) -> Adapter:
    adapter = directory.catalog.adapters.get(name)
    if adapter is None:
        raise NotFound(f"there is no adapter {name!r}", param="name")
    return adapter


def sweep_uploads(cache: Path) -> None:
    """Delete what pushes left that were cut off together with their gateway; those under way hold their lock."""
    for lock in (cache / _UPLOADS).glob(f"*/{_LOCK}"):
        with contextlib.suppress(OSError), lock.open() as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent)


@contextlib.asynccontextmanager
async def _uploaded(request: AnyRequest, settings: GatewaySettings) -> AsyncIterator[Path]:
    """The folder that the request's body holds as an archive; it is gone after the block."""
    with _scratch(settings.cache / _UPLOADS) as scratch:
        archive, folder = scratch / "upload", scratch / "content"
        with store_failures("take the upload"):
            await _save(request, archive, settings.max_push_bytes)
            limits = UnpackLimits(max_bytes=settings.max_push_bytes)
            await asyncio.to_thread(unpack, archive, folder, limits=limits)
            archive.unlink()
        yield folder


@contextlib.contextmanager
def _scratch(uploads: Path) -> Iterator[Path]:
    """A folder for one push, locked for as long as this process lives."""
    uploads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=uploads, ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        with (scratch / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield scratch


async def _save(request: AnyRequest, file: Path, limit: int) -> None:
    size = 0
    with file.open("wb") as opened:
        async for chunk in _chunks(request):
            size += len(chunk)
            if size > limit:
                raise BodyTooLarge(f"the pushed archive is larger than the limit of {limit} bytes")
            await asyncio.to_thread(opened.write, chunk)


async def _chunks(request: AnyRequest) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientException as error:
        raise InvalidRequest("the upload broke off before its end") from error
