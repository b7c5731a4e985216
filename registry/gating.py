"""What keeps a version from serving clients: its gate's verdict, or that it passed against another than serves now."""

from collections.abc import Mapping

from sqlmodel.ext.asyncio.session import AsyncSession

from registry import mapping, repository
from registry.deployments import State
from registry.errors import NotLetThrough
from registry.names import parse_pinned
from registry.tables import AdapterRow, VersionRow

OUTDATED = "outdated"
_SAID = {"candidate": "is still at its gate", "rejected": "was rejected by its gate"}


async def held_back(
    session: AsyncSession, adapter: AdapterRow, before: State | None, after: State, rows: Mapping[int, VersionRow]
) -> dict[int, str]:
    """The versions that are not to serve clients as they newly would, each with its verdict or ``outdated``.

    `rows` are the versions of the state `after`, by number.
    """
    new = after.answering - (before.answering if before else frozenset())
    found = {number: str(rows[number].verdict) for number in sorted(new) if not _is_let_through(rows[number])}
    if before is not None and await _is_outdated(session, adapter, before, rows[after.stable]):
        found[after.stable] = OUTDATED
    return found


def not_let_through(name: str, row: VersionRow, why: str, before: State | None) -> NotLetThrough:
    """The error for a version that is held back; `before` is what serves now."""
    said = f"version {row.number} of {name!r} "
    if why == OUTDATED and before is not None:
        fate = "was held" if _has_passed(row) else "did not pass"
        live = f"and version {before.stable} is live: try it as a canary, or force it and say why"
        return NotLetThrough(f"{said}{fate} against {_its_rival(row)}, {live}", param="version")
    return NotLetThrough(f"{said}{_SAID[why]}; see its report, or force it and say why", param="version")


def _is_let_through(row: VersionRow) -> bool:
    return mapping.to_version("", row).is_fit


async def _is_outdated(session: AsyncSession, adapter: AdapterRow, before: State, row: VersionRow) -> bool:
    """Whether it would follow a version that it did not beat at its gate, and has never served clients itself.

    As a canary it is held against what is live, by what clients get. The newest report counts: one that was let
    through once may have failed since, where another job came to the same weights.
    """
    if before.serves(row.number) or row.verdict != "passed":
        return False
    live = (await repository.versions_by_number(session, adapter, [before.stable]))[before.stable]
    has_beaten = _has_passed(row) and _incumbent(row) == live.engine_name
    return not has_beaten and not await repository.has_served(session, adapter, row.number)


def _has_passed(row: VersionRow) -> bool:
    return (row.report or {}).get("passed") is True


def _incumbent(row: VersionRow) -> str | None:
    """The engine name of what was live at its gate; None is the base model, before the first version."""
    found = (row.report or {}).get("incumbent")
    return None if found is None else str(found)


def _its_rival(row: VersionRow) -> str:
    pinned = parse_pinned(_incumbent(row) or "")
    return "the base model" if pinned is None else f"version {pinned.number}"
