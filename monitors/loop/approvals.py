"""What a person was asked to approve of, and what was answered; each question stands once in a cycle of the loop.

A question is open while the loop would still act on its answer: about a training until that begins, about a promotion
while its rollout is under way.
"""

from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitors.loop.approving import PROMOTE, RETRAIN
from monitors.loop.seen import Approval
from monitors.loop.state import LoopState
from monitors.loop.store import load
from monitors.tables import ApprovalRow
from registry.errors import Conflict, NotFound
from registry.names import check_text
from registry.tuning.changes import Changes

Answer = Literal["approved", "rejected"]
LONGEST_REASON = 1000
_AUDITED: dict[Answer, str] = {"approved": "approve", "rejected": "reject"}
_APPROVALS = ApprovalRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model


class Question(msgspec.Struct, frozen=True):
    """What a person was asked, in the decision of that id; `answer` is ``none`` while it waits."""

    adapter: str
    wanted: Literal["retrain", "promote"]
    cycle: int
    decision: int
    asked_at: datetime
    answer: Literal["none", "approved", "rejected"] = "none"
    actor: str = ""
    reason: str = ""
    answered_at: datetime | None = None


async def ask(connection: AsyncConnection, adapter: str, cycle: int, wanted: str, decision: int, now: datetime) -> None:
    """Ask for approval, in the transaction of the decision; what was asked in that cycle is not asked again."""
    insert: Any = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(_APPROVALS)
    asked = insert.values(
        adapter=adapter,
        cycle=cycle,
        wanted=wanted,
        decision=decision,
        answer="none",
        actor="",
        reason="",
        created_at=now,
    )
    await connection.execute(asked.on_conflict_do_nothing(index_elements=["adapter", "cycle", "wanted"]))


async def answers(connection: AsyncConnection, adapter: str) -> list[Approval]:
    """Everything that was asked about an adapter, with what was answered; newest first."""
    query = select(_APPROVALS).where(_APPROVALS.c.adapter == adapter).order_by(_APPROVALS.c.id.desc())
    found = (await connection.execute(query)).all()
    return [Approval(row.wanted, row.cycle, row.answer, row.actor, row.reason) for row in found]


async def waiting(connection: AsyncConnection, adapter: str) -> Question | None:
    """The newest question about an adapter that is open and waits; None if there is none."""
    row = await _waiting(connection, adapter)
    return None if row is None else _question(row)


def open_question(state: LoopState) -> tuple[str, int]:
    """What the loop may ask while it is there, and the cycle in which it asks."""
    is_a_persons = state.rollout is not None and state.rollout.by_person
    is_promotion = state.phase == "rolling_out" and not is_a_persons
    return (PROMOTE, state.cycle) if is_promotion else (RETRAIN, state.cycle + 1)


async def answer(
    engine: AsyncEngine,
    adapter: str,
    answer: Answer,
    *,
    actor: str,
    reason: str = "",
    decision: int | None = None,
    now: datetime,
) -> Question:
    """Answer the newest question about an adapter that is open and waits; with `decision` only the one of that id.

    The answer and its audit entry are one transaction.

    Raises:
        NotFound: none waits.
        Conflict: another one waits than that of the decision.
        InvalidValue: the reason cannot be kept.
    """
    check_text(reason, "reason", LONGEST_REASON)
    said = {"answer": answer, "actor": actor, "reason": reason, "answered_at": now}
    async with Changes(engine).change(actor) as change:
        connection = await change.session.connection()
        row = await _waiting(connection, adapter)
        if row is not None:
            _require_asked(row, decision)
            still = (_APPROVALS.c.id == row.id) & (_APPROVALS.c.answer == "none")
            answered = await connection.execute(update(_APPROVALS).where(still).values(**said).returning(_APPROVALS))
            if (found := answered.first()) is not None:
                change.audit(
                    _AUDITED[answer], f"adapter:{adapter}", wanted=found.wanted, decision=found.decision, reason=reason
                )
                return _question(found)
    raise NotFound(f"nothing about {adapter!r} waits for approval", param="name")


async def _waiting(connection: AsyncConnection, adapter: str) -> Any:
    """The row of the newest question that is open and waits."""
    wanted, cycle = open_question((await load(connection, adapter)).state)
    is_open = (_APPROVALS.c.wanted == wanted) & (_APPROVALS.c.cycle == cycle) & (_APPROVALS.c.answer == "none")
    query = select(_APPROVALS).where(_APPROVALS.c.adapter == adapter, is_open)
    return (await connection.execute(query)).first()


def _require_asked(row: Any, decision: int | None) -> None:
    """Refuse an answer to another question than the one that waits."""
    if decision is not None and row.decision != decision:
        about = "a training" if row.wanted == RETRAIN else "a promotion"
        raise Conflict(
            f"what decision {decision} asked does not wait for an answer any more, or never did; what waits is "
            f"decision {row.decision}, about {about} of {row.adapter!r}",
            param="decision",
        )


def _question(row: Any) -> Question:
    return Question(
        row.adapter,
        row.wanted,
        row.cycle,
        row.decision,
        row.created_at,
        row.answer,
        row.actor,
        row.reason,
        row.answered_at,
    )
