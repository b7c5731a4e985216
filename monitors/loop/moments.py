"""What a dry run says that would have been decided, and when."""

from dataclasses import replace
from datetime import datetime

import msgspec

from monitors.loop.seen import Approval, Seen
from monitors.loop.verdicts import Verdict


class Moment(msgspec.Struct, frozen=True):
    """One decision of a dry run."""

    at: datetime
    act: str
    outcome: str
    version: int | None
    reason: str
    would_change: str


def moment_of(verdict: Verdict, at: datetime) -> Moment:
    """A verdict as it is shown."""
    return Moment(at, verdict.act, verdict.outcome, verdict.version or None, verdict.reason, verdict.would_change)


def approved(seen: Seen, verdict: Verdict, cycle: int) -> Seen:
    """The same after somebody has approved of what the verdict asks for: a dry run takes it that people say yes."""
    assert verdict.wanted is not None, "what is asked for has a name"
    return replace(seen, approvals=(Approval(verdict.wanted, cycle, "approved", "somebody"),))
