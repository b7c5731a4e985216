"""The registry: every change to what exists and to what is live, each one transaction.

`Registry` is what other rooms use. A change happens wholly or not at all, and leaves an audit entry; a change of a
deployment is one revision with actor, reason and time.

Deployments     registry.lifecycle      what is live
Keys            registry.keyring        who may do what
Leases          registry.leases         what one process does at a time
Rules           registry.rules          how each adapter is watched, and what may be done to it by itself
Stops           registry.stops          what stops automatic change
Registry        this module             what exists: the catalog and its versions
"""

import asyncio
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel.ext.asyncio.session import AsyncSession

from registry import mapping, repository
from registry.artifacts import Artifact, ArtifactStore
from registry.base_model import BaseSpec, read_config
from registry.catalog import Catalog, GateVerdict, Version
from registry.errors import Conflict, NotFound
from registry.keyring import Keys
from registry.leases import Leases
from registry.lifecycle import Changed, Deployments
from registry.lora import CheckedAdapter, check_adapter
from registry.names import check_adapter_name, check_text, engine_name
from registry.rules import Rules
from registry.snapshot import read_catalog
from registry.stops import Stops
from registry.tables import AdapterRow, VersionRow
from registry.transactions import Change, Guard

__all__ = ["Changed", "Pushed", "Registry"]

LONGEST_NOTE = 1000
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pushed:
    """The outcome of a push: the version, and whether it is new rather than one that had this content already."""

    version: Version
    created: bool
    change: int


class Registry(Deployments, Keys, Leases, Rules, Stops):
    """What exists and what is live.

    Args:
        engine: the database, its schema up to date.
        store: where the versions' files are.
        bases: the base models, by name.
    """

    def __init__(self, engine: AsyncEngine, store: ArtifactStore, bases: tuple[BaseSpec, ...]) -> None:
        super().__init__(engine)
        self.store = store
        self.bases = {base.name: base for base in bases}

    async def catalog(self) -> Catalog:
        """The picture as of now; all of it of one moment."""
        async with self._sessions.begin() as session:
            await repository.see_one_moment(session)
            return await read_catalog(session)

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

    async def push(
        self,
        adapter: str,
        folder: Path,
        *,
        actor: str,
        base: str | None = None,
        note: str = "",
        lineage: dict[str, Any] | None = None,
        by_hand: bool = False,
        guard: Guard | None = None,
    ) -> Pushed:
        """Check a PEFT LoRA folder, store it, and register it as the adapter's next version.

        The same content again is the same version. `base` states the base model, and then the name that the
        trainer wrote is not asked about; shapes always are. With a `lineage`, as the tuner writes it, the version is a
        candidate that `judge` has to let through, but for one that is pushed `by_hand`. `guard` may refuse in the
        moment in which it is registered.

        Raises:
            InvalidName, InvalidValue, InvalidAdapter, NotFound, Conflict, StoreFailure: nothing was registered.
        """
        check_text(note, "note", LONGEST_NOTE)
        check_adapter_name(adapter, frozenset(self.bases))
        spec = await self._with_config(self.base_for(base))
        checked = await asyncio.to_thread(check_adapter, folder, spec, trained_on=base is None)
        artifact = await asyncio.to_thread(self.store.put, folder, checked.files, checked.config)
        verdict: GateVerdict | None = None if lineage is None or by_hand else "candidate"
        async with self._change(actor, guard) as change:
            return await self._register(
                change, adapter, spec, checked, artifact, note=note, lineage=lineage, verdict=verdict
            )

    async def judge(
        self,
        adapter: str,
        number: int,
        *,
        passed: bool,
        report: dict[str, Any],
        actor: str,
        guard: Guard | None = None,
    ) -> None:
        """Write what a version's gate said, with what it saw; the same again is no change.

        A version that passed once stays so, and what was pushed by hand is rejected by nobody: a job may have come to
        weights that there were already. `guard` may refuse in the moment in which it is written.

        Raises:
            NotFound: no such adapter or version.
        """
        async with self._change(actor, guard) as change:
            row = await _version_row(change.session, adapter, number)
            verdict = row.verdict if row.verdict in (None, "passed") else "rejected"
            if passed:
                verdict = "passed"
            if row.verdict == verdict and row.report == report:
                return
            before, row.verdict, row.report = row.verdict, verdict, report
            change.session.add(row)
            change.audit(
                "judge",
                f"adapter:{adapter}",
                before={"version": number, "verdict": before},
                after={"version": number, "verdict": verdict},
                reason=str(report.get("reason", "")),
            )

    async def version_record(self, adapter: str, number: int) -> VersionRow:
        """A version with its lineage and its gate's report, which the catalog leaves out.

        Raises:
            NotFound: no such adapter or version.
        """
        async with self._sessions() as session:
            return await _version_row(session, adapter, number)

    async def judged_on(self, adapter: str, holdout: str, *, besides: int) -> int:
        """How many of an adapter's versions, but for one, have a gate's report on the holdout of that digest.

        Raises:
            NotFound: no such adapter.
        """
        async with self._sessions() as session:
            row = await repository.adapter_by_name(session, adapter)
            if row is None:
                raise NotFound(f"there is no adapter {adapter!r}", param="name")
            return await repository.judged_on(session, row, holdout, besides)

    async def _register(
        self,
        change: Change,
        name: str,
        base: BaseSpec,
        checked: CheckedAdapter,
        artifact: Artifact,
        *,
        note: str,
        lineage: dict[str, Any] | None,
        verdict: GateVerdict | None,
    ) -> Pushed:
        adapter = await self._adapter_to_push_to(change, name, base)
        known = await repository.version_by_digest(change.session, adapter, artifact.digest)
        if known is not None:
            return Pushed(mapping.to_version(name, known), created=False, change=change.outcome)
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
            created_by=change.actor,
            verdict=verdict,
            lineage=lineage,
        )
        change.session.add(row)
        change.audit("push", f"adapter:{name}", after={"version": number, "digest": artifact.digest, "note": note})
        await change.session.flush()
        return Pushed(mapping.to_version(name, row), created=True, change=change.outcome)

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


async def _version_row(session: AsyncSession, name: str, number: int) -> VersionRow:
    adapter = await repository.adapter_by_name(session, name)
    if adapter is None:
        raise NotFound(f"there is no adapter {name!r}", param="name")
    row = (await repository.versions_by_number(session, adapter, [number])).get(number)
    if row is None:
        raise NotFound(f"adapter {name!r} has no version {number}", param="version")
    return row
