"""Verdicts as they are recorded and shown: decisions for ever, and the newest verdict of an adapter in what is kept."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.decisions import Decision, record_decision
from monitors.loop.state import LoopState
from monitors.loop.store import Kept
from monitors.loop.verdicts import Act, Verdict
from monitors.webhooks.queue import enqueue

KIND = "loop"
_LONGEST_RULE, _LONGEST_REASON, _LONGEST_OUTCOME = 400, 1000, 40
_ALSO_ADVISED: frozenset[Act] = frozenset({"wait", "watch_canary", "end_cycle", "take_up"})
"""Acts that change nothing outside of what the loop keeps."""


def advised(verdict: Verdict) -> Verdict:
    """What is said in mode ``advise``: what would be done, which nobody does."""
    if verdict.act in _ALSO_ADVISED:
        return verdict
    return replace(verdict, act="wait", outcome=f"would_{verdict.act}")


async def record(
    connection: AsyncConnection,
    adapter: str,
    state: LoopState,
    verdict: Verdict,
    now: datetime,
    *,
    wanted: Act | None = None,
) -> int:
    """Record the verdict as a decision, and queue what is told of it; its id.

    Its inputs have the `act`, or the one that was `wanted` and is only advised.
    """
    inputs = {
        "act": wanted or verdict.act,
        "weight": verdict.weight,
        "wanted": verdict.wanted,
        "would_change": verdict.would_change,
        "phase": state.phase,
        "cycle": state.cycle,
    }
    decision = Decision(
        adapter,
        verdict.version,
        KIND,
        verdict.outcome[:_LONGEST_OUTCOME],
        verdict.rule[:_LONGEST_RULE],
        verdict.reason[:_LONGEST_REASON],
        inputs | msgspec.to_builtins(verdict.inputs),
    )
    number = await record_decision(connection, decision, now)
    await enqueue(connection, number, decision, now)
    return number


def shown(kept: Kept, verdict: Verdict, now: datetime, decision: int | None) -> Kept:
    """What is kept, with the verdict as the newest one, and the decision that it is or belongs to."""
    said = _as_json(verdict) | {"at": now.isoformat(), "decision": decision}
    return msgspec.structs.replace(kept, verdict=said)


def shown_decision(kept: Kept) -> int | None:
    """The decision that the newest verdict is or belongs to."""
    decision: int | None = (kept.verdict or {}).get("decision")
    return decision


def is_another(kept: Kept, verdict: Verdict) -> bool:
    """Whether its outcome is not the newest verdict's."""
    return kept.verdict is None or kept.verdict.get("outcome") != verdict.outcome


def says_more(kept: Kept, verdict: Verdict) -> bool:
    """Whether it says anything that the newest verdict does not."""
    said = {name: value for name, value in (kept.verdict or {}).items() if name not in ("at", "decision")}
    return _as_json(verdict) != said


def _as_json(verdict: Verdict) -> dict[str, Any]:
    said: dict[str, Any] = msgspec.to_builtins(verdict)
    return said
