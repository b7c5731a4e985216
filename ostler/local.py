"""What is set up on this machine without a gateway: the first key, and the demo's adapter."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import demo
from gateway.app import artifact_store
from gateway.settings import GatewaySettings
from ostler.client import write_secret
from registry.base_model import BaseSpec
from registry.catalog import Scope
from registry.database import connect
from registry.errors import NotFound
from registry.keys import hash_key
from registry.registry import Registry

ACTOR = "ostler up"


@contextlib.asynccontextmanager
async def local_registry(settings: GatewaySettings, *bases: BaseSpec) -> AsyncIterator[Registry]:
    """The registry that the settings name, without a gateway before it; pushing needs the base models."""
    database = connect(settings.database)
    try:
        yield Registry(database, artifact_store(settings), bases)
    finally:
        await database.dispose()


async def ensure_admin_key(registry: Registry, file: Path) -> str | None:
    """Have `file`, with mode 600, hold a valid admin key; the key if it had to be made, to be shown this once."""
    with contextlib.suppress(OSError):
        held = (await registry.catalog()).key(hash_key(file.read_text().strip()))
        if held is not None and held.key.may(Scope.ADMIN):
            return None
    _, secret = await registry.create_key("local-admin", scopes=frozenset({Scope.ADMIN}), actor=ACTOR)
    write_secret(file, secret)
    return secret


async def register_demo(registry: Registry) -> None:
    """Register the demo's adapters, each version promoted in turn, so that there is something to roll back to.

    Goes on where an earlier start was broken off; what was live once is left to whoever changed it since.
    """
    for version in demo.ADAPTERS:
        if version.version in await _once_live(registry, version.name):
            continue
        pushed = await registry.push(version.name, version.folder, actor=ACTOR, note=version.note)
        await registry.promote(version.name, pushed.version.number, actor=ACTOR, reason=version.note)


async def _once_live(registry: Registry, name: str) -> set[int]:
    found: set[int] = set()
    before: int | None = None
    with contextlib.suppress(NotFound):
        while page := await registry.history(name, before=before):
            found |= {revision.stable for revision in page}
            before = page[-1].number
    return found
