"""What a dry run comes to, as the API shows it."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from monitors.loop.moments import Moment
from monitors.loop.past import Ended
from monitors.loop.seen import Comparison
from registry.policies import Mode


class AlarmThen(msgspec.Struct, frozen=True):
    """An alarm that would have been raised: `recent` is the mean of the newest sessions, `level` what is expected."""

    at: datetime
    version: int
    recent: float | None
    level: float | None


class CanaryThen(msgspec.Struct, frozen=True):
    """A canary that there was, with what became of it, and what the policy would have done.

    Attributes:
        ended: what became of it at `until`: ``rolled_back`` by the loop, ``withdrawn`` by a person, ``promoted``,
            ``replaced`` by another one, or it ``serves`` its share still.
        moments: the steps and the end that the policy would have come to.
        waits: why it would have come to no end; None if it would have.
        comparison: what was known by then.
    """

    version: int
    incumbent: int
    by_person: bool
    since: datetime
    until: datetime
    ended: Ended
    moments: Sequence[Moment]
    waits: Moment | None
    comparison: Comparison


class Replay(msgspec.Struct, frozen=True):
    """What a policy would have done from `since` to `until`.

    Attributes:
        mode: that of the policy; the rest is told as if it acted.
        observations, labels, requests: how much was looked at.
        observed_until: when the last of the observations was made; None if there is none. There may be newer ones, and
            then a note says so.
        alarms: of lost quality.
        decisions: what would have followed from them: trainings, and each new reason to wait.
        canaries: the oldest first.
        notes: what to keep in mind.
    """

    adapter: str
    since: datetime
    until: datetime
    mode: Mode
    observations: int
    observed_until: datetime | None
    labels: int
    requests: int
    alarms: Sequence[AlarmThen]
    decisions: Sequence[Moment]
    canaries: Sequence[CanaryThen]
    notes: Sequence[str]
