"""The registry: every change to what exists and to what is live, each one transaction.

`Registry` is what other rooms use. A change happens wholly or not at all, and leaves an audit entry; a change of a
deployment is one revision with actor, reason and time.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlmodel.ext.asyncio.session import AsyncSession

from registry import keys, repository
from registry.artifacts import Artifact, ArtifactStore
from registry.base_model import BaseSpec, read_config
from registry.catalog import ApiKey, Catalog, Deployment, Role, Version
from registry.errors import Conflict, NotFound, NothingToRollBack
from registry.lora import CheckedAdapter, check_adapter
from registry.names import check_adapter_name, engine_name
from registry.tables import AdapterRow, ApiKeyRow, AuditRow, RevisionRow, VersionRow

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pushed:
    """The outcome of a push: the version, and whether it is new rather than one that had this content already."""

    version: Version
    created: bool
    change: int


@dataclass(frozen=True, slots=True)
class Changed:
    """The outcome of a change of a deployment."""

    adapter: str
    deployment: Deployment
    change: int


@dataclass(frozen=True, slots=True)
class Change:
    """A transaction under way, its number and who it is for."""

    session: AsyncSession
    number: int
    actor: str

    def audit(self, action: str, subject: str, **detail: Any) -> None:
        """Note what this change does."""
        self.session.add(
            AuditRow(change=self.number, actor=self.actor, action=action, subject=subject, detail=detail or None)
        )


class Registry:
    """What exists and what is live.

    Args:
        engine: the database, its schema up to date.
        store: where the versions' files are.
        bases: the base models, by name.
    """

    def __init__(self, engine: AsyncEngine, store: ArtifactStore, bases: tuple[BaseSpec, ...]) -> None:
        self._sessions = async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)
        self.store = store
        self.bases = {base.name: base for base in bases}

    @contextlib.asynccontextmanager
    async def _change(self, actor: str) -> AsyncIterator[Change]:
        """The one commit point. The counter is raised first, which puts changes in one order."""
        async with self._sessions.begin() as session:
            yield Change(session, await repository.begin_change(session), actor)

    async def catalog(self) -> Catalog:
        """The picture as of now; all of it of one moment."""
        async with self._sessions.begin() as session:
            await repository.see_one_moment(session)
            return await repository.read_catalog(session)

    async def change_number(self) -> int:
        """The number of the newest change; cheap, for polling."""
        async with self._sessions() as session:
            return await repository.change_number(session)

    # Versions

    def base_for(self, name: str | None) -> BaseSpec:
        """The base model of that name, or the only one.

        Raises:
            NotFound: there is none of that name, or the name is needed because there are several.
        """
        if name is None and len(self.bases) == 1:
            return next(iter(self.bases.values()))
        if name is None or name not in self.bases:
            known = ", ".join(sorted(self.bases))
            raise NotFound(f"the base model {name!r} is not served here; say one of: {known}", param="base")
        return self.bases[name]

    async def _with_config(self, spec: BaseSpec) -> BaseSpec:
        """The base model with its config.json, which the engine may have fetched since we started."""
        if spec.config is None and spec.source:
            spec = replace(spec, config=await asyncio.to_thread(read_config, spec.source))
            self.bases[spec.name] = spec
        if spec.config is None:
            log.warning("the config.json of %s is not known here, so shapes are left to the engine", spec.name)
        return spec

    async def push(self, adapter: str, folder: Path, *, actor: str, base: str | None = None, note: str = "") -> Pushed:
        """Check a PEFT LoRA folder, store it, and register it as the adapter's next version.

        The same content again is the same version. `base` states the base model, and then the name that the
        trainer wrote is not asked about; shapes always are.

        Raises:
            InvalidName, InvalidAdapter, NotFound, Conflict, StoreFailure: nothing was registered.
        """
        check_adapter_name(adapter, frozenset(self.bases))
        spec = await self._with_config(self.base_for(base))
        checked = await asyncio.to_thread(check_adapter, folder, spec, trained_on=base is None)
        artifact = await asyncio.to_thread(self.store.put, folder, checked.files, checked.config)
        return await self._register(adapter, spec, checked, artifact, actor=actor, note=note)

    async def _register(
        self, name: str, base: BaseSpec, checked: CheckedAdapter, artifact: Artifact, *, actor: str, note: str
    ) -> Pushed:
        async with self._change(actor) as change:
            adapter = await self._adapter_to_push_to(change, name, base)
            known = await repository.version_by_digest(change.session, adapter, artifact.digest)
            if known is not None:
                return Pushed(repository.to_version(name, known), created=False, change=change.number)
            assert adapter.id is not None
            number = await repository.last_version_number(change.session, adapter) + 1
            row = VersionRow(
                adapter_id=adapter.id,
                number=number,
                digest=artifact.digest,
                engine_name=engine_name(name, number, artifact.digest),
                rank=checked.rank,
                alpha=checked.alpha,
                parameters=checked.parameters,
                size_bytes=artifact.size_bytes,
                note=note,
                created_by=actor,
            )
            change.session.add(row)
            change.audit("push", f"adapter:{name}", version=number, digest=artifact.digest)
            await change.session.flush()
            return Pushed(repository.to_version(name, row), created=True, change=change.number)

    async def _adapter_to_push_to(self, change: Change, name: str, base: BaseSpec) -> AdapterRow:
        adapter = await repository.adapter_by_name(change.session, name)
        if adapter is None:
            adapter = AdapterRow(name=name, base=base.name)
            change.session.add(adapter)
            await change.session.flush()
        if adapter.base != base.name:
            raise Conflict(
                f"adapter {name!r} belongs to the base model {adapter.base!r}, not {base.name!r}", param="base"
            )
        return adapter

    # Deployments

    async def promote(self, name: str, number: int, *, actor: str, reason: str = "") -> Changed:
        """Make a version what the adapter's name serves. Promoting the one that does already changes nothing.

        Whoever calls this has made sure that the engines can serve it.

        Raises:
            NotFound: no such adapter or version.
        """
        async with self._change(actor) as change:
            adapter = await self._adapter(change.session, name)
            if await repository.version_by_number(change.session, adapter, number) is None:
                raise NotFound(f"adapter {name!r} has no version {number}", param="version")
            current = await repository.current_revision(change.session, adapter)
            if current is not None and current.stable == number:
                return Changed(name, repository.to_deployment(current), change.number)
            undo = await self._state_of(change.session, adapter, current) if current else None
            revision = self._next_revision(
                adapter, current, action="promote", stable=number, reason=reason, actor=actor
            )
            revision.undo_revision, revision.undo_stable = (undo.number, undo.stable) if undo else (None, None)
            return self._record(change, name, revision)

    async def rollback(
        self, name: str, *, to: int | None = None, expected: int | None = None, actor: str, reason: str = ""
    ) -> Changed:
        """Add a revision that restores an earlier one: revision `to`, or else what served before the present state.

        Rolling back again goes further back, it does not return to what was rolled back from. `expected` is the
        version that the caller made ready for it.

        Raises:
            NotFound: no such adapter or revision.
            NothingToRollBack: nothing came before.
            Conflict: it would serve another version than the expected one, since someone else changed it just now.
        """
        async with self._change(actor) as change:
            adapter = await self._adapter(change.session, name)
            current, target = await self._rollback_target(change.session, adapter, to)
            if expected is not None and target.stable != expected:
                raise Conflict(f"adapter {name!r} was changed by someone else just now; look, and try again")
            if target.number in (current.number, current.restores):
                return Changed(name, repository.to_deployment(current), change.number)
            revision = self._next_revision(
                adapter, current, action="rollback", stable=target.stable, reason=reason, actor=actor
            )
            revision.restores = target.number
            revision.undo_revision, revision.undo_stable = target.undo_revision, target.undo_stable
            return self._record(change, name, revision)

    async def rollback_version(self, name: str, *, to: int | None = None) -> int:
        """The version number that `rollback` with the same arguments would serve, with the same errors."""
        async with self._sessions() as session:
            adapter = await self._adapter(session, name)
            _, target = await self._rollback_target(session, adapter, to)
            return target.stable

    async def history(self, name: str, *, before: int | None = None, limit: int = 100) -> list[RevisionRow]:
        """The adapter's revisions, newest first.

        Raises:
            NotFound: no such adapter.
        """
        async with self._sessions() as session:
            adapter = await self._adapter(session, name)
            return list(await repository.revisions_before(session, adapter, before, limit))

    async def _adapter(self, session: AsyncSession, name: str) -> AdapterRow:
        adapter = await repository.adapter_by_name(session, name)
        if adapter is None:
            raise NotFound(f"there is no adapter {name!r}", param="name")
        return adapter

    async def _rollback_target(
        self, session: AsyncSession, adapter: AdapterRow, to: int | None
    ) -> tuple[RevisionRow, RevisionRow]:
        """The current revision, and the one whose state comes back."""
        current = await repository.current_revision(session, adapter)
        if current is None:
            raise NothingToRollBack(f"adapter {adapter.name!r} has no deployment yet")
        wanted = current.undo_revision if to is None else to
        if wanted is None:
            raise NothingToRollBack(
                f"adapter {adapter.name!r} has nothing before revision {current.restores or current.number}; "
                "a later one can be restored by its number"
            )
        target = await repository.revision_by_number(session, adapter, wanted)
        if target is None:
            raise NotFound(f"adapter {adapter.name!r} has no revision {wanted}", param="to")
        return current, await self._state_of(session, adapter, target)

    async def _state_of(self, session: AsyncSession, adapter: AdapterRow, revision: RevisionRow) -> RevisionRow:
        """The revision that first brought the state of `revision`; a rollback restores one that is not itself one."""
        if revision.restores is None:
            return revision
        origin = await repository.revision_by_number(session, adapter, revision.restores)
        assert origin is not None, "history only grows"
        return origin

    def _next_revision(
        self, adapter: AdapterRow, current: RevisionRow | None, *, action: str, stable: int, reason: str, actor: str
    ) -> RevisionRow:
        assert adapter.id is not None
        return RevisionRow(
            adapter_id=adapter.id,
            number=current.number + 1 if current else 1,
            action=action,
            stable=stable,
            previous_stable=current.stable if current else None,
            actor=actor,
            reason=reason,
        )

    def _record(self, change: Change, name: str, revision: RevisionRow) -> Changed:
        change.session.add(revision)
        change.audit(revision.action, f"adapter:{name}", revision=revision.number, stable=revision.stable)
        return Changed(name, repository.to_deployment(revision), change.number)

    # Keys

    async def create_key(
        self,
        name: str,
        *,
        role: Role,
        adapters: frozenset[str] | None = None,
        expires_at: datetime | None = None,
        actor: str,
    ) -> tuple[ApiKey, str]:
        """Make an API key; the second value is the key itself, which nobody can read again."""
        secret = keys.generate()
        row = ApiKeyRow(
            id=keys.new_id(),
            name=name,
            hash=keys.hash_key(secret),
            hint=keys.hint(secret),
            role=role.value,
            adapters=None if adapters is None else sorted(adapters),
            created_by=actor,
            expires_at=expires_at,
        )
        async with self._change(actor) as change:
            change.session.add(row)
            change.audit("create_key", f"key:{row.id}", name=name, role=role.value)
        return repository.to_key(row), secret

    async def revoke_key(self, key_id: str, *, actor: str) -> ApiKey:
        """Take a key's rights for good; revoking it again changes nothing.

        Raises:
            NotFound: no such key.
        """
        async with self._change(actor) as change:
            row = await repository.key_by_id(change.session, key_id)
            if row is None:
                raise NotFound(f"there is no key {key_id!r}", param="id")
            if row.revoked_at is None:
                row.revoked_at = datetime.now(UTC)
                change.audit("revoke_key", f"key:{key_id}")
        return repository.to_key(row)

    async def list_keys(self) -> list[ApiKey]:
        """Every key, oldest first, revoked ones too."""
        async with self._sessions() as session:
            return [repository.to_key(row) for row in await repository.all_keys(session)]
