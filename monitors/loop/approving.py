"""What a person must approve of: asked for once a cycle, and carried out, or not, by the answer."""

from dataclasses import replace

from monitors.loop.seen import Seen
from monitors.loop.verdicts import Verdict

RETRAIN, PROMOTE = "retrain", "promote"


def if_approved(verdict: Verdict, seen: Seen, wanted: str, cycle: int) -> Verdict:
    """The verdict once somebody approved of it; until then what asks for that, and waits for it."""
    found = seen.approval(wanted, cycle)
    how = f"`ostler approve NAME` or `ostler reject NAME` ({wanted})"
    if found is None:
        reason = f"{verdict.reason} It needs a person's approval."
        return replace(verdict, act="ask", outcome="asked", reason=reason, would_change=how, wanted=wanted)
    if found.answer == "none":
        reason = f"{verdict.reason} It waits for a person's approval."
        return replace(verdict, act="wait", outcome="not_approved", reason=reason, would_change=how, weight=None)
    return replace(verdict, reason=f"{verdict.reason} {found.actor} approved of it.")


def refusal(seen: Seen, wanted: str, cycle: int) -> str | None:
    """Who refused it and why; None if nobody did."""
    found = seen.approval(wanted, cycle)
    if found is None or found.answer != "rejected":
        return None
    return f"{found.actor} refused it{': ' + found.reason if found.reason else ''}."
