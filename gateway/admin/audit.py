"""Who changed what: the audit log."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from gateway.refusals import refusals
from gateway.shapes import Page
from registry.registry import Registry
from registry.tables import AuditRow


class AuditShape(msgspec.Struct, frozen=True):
    """One change: who did what to what, and what was so before and after."""

    id: int
    actor: str
    action: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    detail: dict[str, Any] | None
    created_at: datetime


class AuditController(Controller):
    """The audit log."""

    path = "/audit"
    tags = ("Audit",)

    @get("/", summary="List changes", responses=refusals())
    async def list_changes(
        self,
        registry: NamedDependency[Registry],
        limit: Annotated[int, QueryParameter(name="limit", ge=1, le=1000)] = 100,
        before: Annotated[int | None, QueryParameter(name="before", ge=1, le=2**31 - 1)] = None,
    ) -> Page[AuditShape]:
        """Every change by every admin, newest first; `before` goes on from an entry's id."""
        rows = await registry.audit(before=before, limit=limit + 1)
        return Page([audit_shape(row) for row in rows[:limit]], has_more=len(rows) > limit)


def audit_shape(row: AuditRow) -> AuditShape:
    """An entry as admins see it."""
    assert row.id is not None, "it was read from the database"
    return AuditShape(
        id=row.id,
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        before=row.before,
        after=row.after,
        detail=row.detail,
        created_at=row.created_at,
    )
