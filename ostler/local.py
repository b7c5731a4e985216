"""What is set up on this machine without a gateway: the first key, and the demo's adapter."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import demo
from demo.learned import Learned, learned
from gateway.app import artifact_store
from gateway.settings import GatewaySettings
from monitors.judging.golden import Message
from monitors.teaching.fingerprints import fingerprint
from monitors.teaching.rows import SupervisedRow
from ostler.client import write_secret
from registry.artifacts import ArtifactStore, canonical_json
from registry.base_model import BaseSpec
from registry.catalog import Scope
from registry.database import connect
from registry.errors import NotFound
from registry.keys import hash_key
from registry.registry import Registry
from tuner.data.dataset import ABOUT, FORMAT
from tuner.data.reading import encode
from tuner.data.splits import SPLITS

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
        lineage = {"dataset": await asyncio.to_thread(_learned, registry.store, version)}
        pushed = await registry.push(
            version.name, version.folder, actor=ACTOR, note=version.note, lineage=lineage, by_hand=True
        )
        await registry.promote(version.name, pushed.version.number, actor=ACTOR, reason=version.note)


def _learned(store: ArtifactStore, version: demo.Adapter) -> str:
    """Keep what a version was trained on, as the tuner does, so that the next one can go on from it; its digest."""
    rows = [_row(each) for each in learned(version)]
    about = {
        "format": FORMAT,
        "method": "supervised",
        "counts": {split: len(rows) if split == "train" else 0 for split in SPLITS},
        "sources": {"uploaded": len(rows)},
        "parents": [],
        "report": {},
    }
    lines = b"".join(encode(row) + b"\n" for row in sorted(rows, key=lambda row: fingerprint(row).row))
    splits = {f"{split}.jsonl": lines if split == "train" else b"" for split in SPLITS}
    return store.put_files({ABOUT: canonical_json(about), **splits}).digest


def _row(each: Learned) -> SupervisedRow:
    messages = [Message(role="user", content=each.prompt), Message(role="assistant", content=each.answer)]
    return SupervisedRow(messages, label=each.label)


async def _once_live(registry: Registry, name: str) -> set[int]:
    found: set[int] = set()
    before: int | None = None
    with contextlib.suppress(NotFound):
        while page := await registry.history(name, before=before):
            found |= {revision.stable for revision in page}
            before = page[-1].number
    return found
