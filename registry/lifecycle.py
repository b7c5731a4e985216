"""Changes of deployments: promote, canary, shadow, fallback, rollback; and archiving what they no longer need."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlmodel.ext.asyncio.session import AsyncSession

from registry import mapping, repository
from registry.catalog import Deployment, Version
from registry.deployments import Patch, State, action_of, describe, patched
from registry.errors import Conflict, InvalidValue, NotFound, NothingToRollBack, RevisionMismatch
from registry.gating import held_back, not_let_through
from registry.names import check_text
from registry.stops import require_going
from registry.tables import AdapterRow, RevisionRow, VersionRow
from registry.transactions import Change, Transactions

LONGEST_REASON = 1000


@dataclass(frozen=True, slots=True)
class Changed:
    """The outcome of a change of a deployment.

    `alone` says that this change, of number `change`, changed this deployment and nothing else; if not, whoever holds
    the catalog must read it again.
    """

    adapter: str
    deployment: Deployment
    change: int
    alone: bool = False


@dataclass(frozen=True, slots=True)
class _Standing:
    """An adapter and what its name means now; neither revision nor deployment before the first promote."""

    adapter: AdapterRow
    revision: RevisionRow | None
    deployment: Deployment | None

    @property
    def number(self) -> int:
        return self.revision.number if self.revision else 0


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a change comes to: a revision to add, or None if all is as it should be."""

    standing: _Standing
    revision: RevisionRow | None
    deployment: Deployment


class Deployments(Transactions):
    """What each adapter's name means, and how that changes: one revision a change, never rewritten."""

    async def change(
        self,
        name: str,
        patch: Patch,
        *,
        prepared: frozenset[int] | None = None,
        expected_revision: int | None = None,
        decision: int | None = None,
        actor: str,
        reason: str = "",
    ) -> Changed:
        """Change what the adapter's name means; a patch that changes nothing writes nothing.

        Whoever calls this has made sure that the engines can serve it: `prepared` are the versions made ready for
        it, None if that is not held. `expected_revision` is the revision that the caller saw, 0 before the first.
        `decision` is what an automatic change follows from; without one it is a person's, whatever key it came with.

        Raises:
            NotFound: no such adapter or version.
            Conflict: nothing serves yet, a version is archived, or somebody else's change needs other versions.
            NotLetThrough: clients would get answers of a version that its gate has not let through, or has held
                against another than the one it would follow, and not by force.
            Stopped: it is automatic, and that is stopped, or the policy does not want it.
            InvalidValue: a share is no number from 0 to 1, the canary is the stable version, what is held back is not
                what serves now, or force has no reason.
            RevisionMismatch: it is not at the expected revision.
        """
        check_text(reason, "reason", LONGEST_REASON)
        async with self._change(actor) as change:
            standing = await _standing(change.session, name, expected_revision, decision)
            plan = await _plan_patch(change.session, standing, patch, reason)
            return await _carry_out(change, plan, prepared, reason, decision)

    async def promote(self, name: str, number: int, *, actor: str, reason: str = "") -> Changed:
        """Make a version what the adapter's name serves; see `change`."""
        return await self.change(name, Patch(stable=number), actor=actor, reason=reason)

    async def rollback(
        self,
        name: str,
        *,
        to: int | None = None,
        prepared: frozenset[int] | None = None,
        expected_revision: int | None = None,
        decision: int | None = None,
        actor: str,
        reason: str = "",
    ) -> Changed:
        """Add a revision that restores all of an earlier one: revision `to`, or else the one to go back to.

        That is the newest earlier state that serves neither as stable nor as canary what is on trial now: the canary
        if there is one that is no holdback, else the stable version. Rolling back again goes further back, it does not
        return to what was rolled back from. Archived versions that it needs are brought back. `decision` is as in
        `change`.

        Raises:
            NotFound: no such adapter or revision.
            NothingToRollBack: nothing came before.
            Conflict: somebody else changed it just now, and it would need other versions than the prepared ones.
            Stopped: it is automatic, and that is stopped, or the policy does not want it.
            RevisionMismatch: it is not at the expected revision.
        """
        check_text(reason, "reason", LONGEST_REASON)
        async with self._change(actor) as change:
            standing = await _standing(change.session, name, expected_revision, decision)
            plan = await _plan_rollback(change.session, standing, to)
            return await _carry_out(change, plan, prepared, reason, decision)

    async def preview(
        self,
        name: str,
        patch: Patch,
        *,
        expected_revision: int | None = None,
        decision: int | None = None,
        reason: str = "",
    ) -> Deployment:
        """What `change` would make of it now, with the same errors; nothing is written."""
        async with self._sessions() as session:
            standing = await _standing(session, name, expected_revision, decision)
            return (await _plan_patch(session, standing, patch, reason)).deployment

    async def preview_rollback(
        self, name: str, to: int | None = None, *, expected_revision: int | None = None, decision: int | None = None
    ) -> Deployment:
        """What `rollback` would make of it now, with the same errors; nothing is written."""
        async with self._sessions() as session:
            standing = await _standing(session, name, expected_revision, decision)
            return (await _plan_rollback(session, standing, to)).deployment

    async def history(self, name: str, *, before: int | None = None, limit: int = 100) -> list[RevisionRow]:
        """The adapter's revisions, newest first.

        Raises:
            NotFound: no such adapter.
        """
        async with self._sessions() as session:
            adapter = await _adapter(session, name)
            return list(await repository.revisions_before(session, adapter, before, limit))

    async def archive_version(self, name: str, number: int, *, archived: bool, actor: str) -> Version:
        """Take a version out of service, or bring it back; what is so already stays so.

        Raises:
            NotFound: no such adapter or version.
            Conflict: the deployment uses it.
        """
        async with self._change(actor) as change:
            standing = await _standing(change.session, name)
            row = (await repository.versions_by_number(change.session, standing.adapter, [number])).get(number)
            if row is None:
                raise _no_version(name, number)
            if archived and number in _needed(standing.deployment):
                raise Conflict(
                    f"version {number} of {name!r} is part of its deployment; change that first", param="version"
                )
            if archived != (row.archived_at is not None):
                row.archived_at = datetime.now(UTC) if archived else None
                _audit_archive(change, name, number, archived=archived)
            return mapping.to_version(name, row)


async def _adapter(session: AsyncSession, name: str) -> AdapterRow:
    adapter = await repository.adapter_by_name(session, name)
    if adapter is None:
        raise NotFound(f"there is no adapter {name!r}", param="name")
    return adapter


def _no_version(name: str, number: int) -> NotFound:
    return NotFound(f"adapter {name!r} has no version {number}", param="version")


async def _standing(
    session: AsyncSession, name: str, expected: int | None = None, decision: int | None = None
) -> _Standing:
    """The adapter, if it is at the expected revision, and nothing stops the decision that is to change it."""
    adapter = await _adapter(session, name)
    revision = await repository.current_revision(session, adapter)
    number = revision.number if revision else 0
    if expected is not None and expected != number:
        raise RevisionMismatch(
            f"adapter {name!r} is at revision {number}, not {expected}; look at what changed, and try again",
            param="revision",
        )
    if decision is not None:
        await require_going(session, name)
    return _Standing(adapter, revision, await _deployment(session, adapter, revision) if revision else None)


async def _deployment(session: AsyncSession, adapter: AdapterRow, revision: RevisionRow) -> Deployment:
    before = await repository.revision_by_number(session, adapter, revision.number - 1)
    undo = await repository.revision_by_number(session, adapter, revision.undo_revision)
    return mapping.to_deployment(revision, before, undo)


async def _plan_patch(session: AsyncSession, standing: _Standing, patch: Patch, reason: str) -> _Plan:
    if patch.force and not reason.strip():
        raise InvalidValue("a forced change needs a reason", param="reason")
    before = mapping.to_state(standing.revision) if standing.revision else None
    after = patched(before, patch)
    if after == before:
        assert standing.deployment is not None
        return _Plan(standing, None, standing.deployment)
    rows = await _in_service(session, standing.adapter, after)
    held = await held_back(session, standing.adapter, before, after, rows)
    if held and not patch.force:
        number, why = next(iter(held.items()))
        raise not_let_through(standing.adapter.name, rows[number], why, before)
    undo = await repository.undo_of(session, standing.adapter, standing.revision, after.suspect)
    revision = _next_revision(standing, action_of(before, after), after)
    revision.undo_revision, revision.undo_stable = (undo.number, undo.stable) if undo else (None, None)
    revision.forced = {str(number): why for number, why in held.items()} or None
    return _Plan(standing, revision, await _deployment(session, standing.adapter, revision))


async def _plan_rollback(session: AsyncSession, standing: _Standing, to: int | None) -> _Plan:
    current, name = standing.revision, standing.adapter.name
    if current is None or standing.deployment is None:
        raise NothingToRollBack(f"adapter {name!r} has no deployment yet")
    wanted = current.undo_revision if to is None else to
    if wanted is None:
        raise NothingToRollBack(
            f"adapter {name!r} has nothing before revision {current.restores or current.number}; "
            "a later one can be restored by its number"
        )
    found = await repository.revision_by_number(session, standing.adapter, wanted)
    if found is None:
        raise NotFound(f"adapter {name!r} has no revision {wanted}", param="to")
    target = await repository.origin(session, standing.adapter, found)
    if target.number in (current.number, current.restores):
        return _Plan(standing, None, standing.deployment)
    revision = _next_revision(standing, "rollback", mapping.to_state(target))
    revision.restores = target.number
    revision.undo_revision, revision.undo_stable = target.undo_revision, target.undo_stable
    return _Plan(standing, revision, await _deployment(session, standing.adapter, revision))


def _next_revision(standing: _Standing, action: str, state: State) -> RevisionRow:
    assert standing.adapter.id is not None
    return RevisionRow(
        adapter_id=standing.adapter.id,
        number=standing.number + 1,
        action=action,
        previous_stable=standing.revision.stable if standing.revision else None,
        **mapping.state_columns(state),
    )


async def _in_service(session: AsyncSession, adapter: AdapterRow, state: State) -> Mapping[int, VersionRow]:
    """The versions of a state by number, all of which must exist and not be archived."""
    rows = await repository.versions_by_number(session, adapter, state.versions)
    for number in sorted(state.versions):
        if number not in rows:
            raise _no_version(adapter.name, number)
        if rows[number].archived_at is not None:
            raise Conflict(
                f"version {number} of {adapter.name!r} is archived; bring it back from the archive first",
                param="version",
            )
    return rows


async def _carry_out(
    change: Change, plan: _Plan, prepared: frozenset[int] | None, reason: str, decision: int | None
) -> Changed:
    name, standing, revision = plan.standing.adapter.name, plan.standing, plan.revision
    if revision is None:
        return Changed(name, plan.deployment, change.outcome)
    ready = standing.deployment.versions if standing.deployment else frozenset()
    if prepared is not None and not plan.deployment.versions <= prepared | ready:
        raise Conflict(f"adapter {name!r} was changed by someone else just now; look, and try again")
    revision.actor, revision.reason, revision.decision = change.actor, reason, decision
    change.session.add(revision)
    change.audit(
        revision.action,
        f"adapter:{name}",
        before=describe(standing.deployment),
        after=describe(plan.deployment),
        reason=reason,
        restores=revision.restores,
        decision=decision,
        forced=revision.forced,
    )
    brought_back = await _bring_back(change, plan)
    return Changed(name, plan.deployment, change.outcome, alone=not brought_back)


async def _bring_back(change: Change, plan: _Plan) -> bool:
    """Take what the deployment needs out of the archive: what a rollback restores, or its fallback leads to."""
    found = False
    adapter = plan.standing.adapter
    rows = await repository.versions_by_number(change.session, adapter, _needed(plan.deployment))
    for number, row in sorted(rows.items()):
        if row.archived_at is not None:
            row.archived_at, found = None, True
            _audit_archive(change, adapter.name, number, archived=False)
    return found


def _needed(deployment: Deployment | None) -> frozenset[int]:
    """The versions that a deployment sends requests to, or would if the others failed."""
    if deployment is None:
        return frozenset()
    falls_back = deployment.previous is not None and "previous" in deployment.fallback
    return deployment.versions | ({deployment.previous} if falls_back and deployment.previous else set())


def _audit_archive(change: Change, name: str, number: int, *, archived: bool) -> None:
    change.audit(
        "archive" if archived else "unarchive",
        f"adapter:{name}",
        before={"version": number, "archived": not archived},
        after={"version": number, "archived": archived},
    )
