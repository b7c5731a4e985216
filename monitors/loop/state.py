"""Where the loop is with an adapter; stored as JSON, and changed only together with the decision that changed it."""

from datetime import datetime
from typing import Literal

import msgspec

Phase = Literal["watching", "tuning", "rolling_out", "holding_back"]
"""``watching`` the stable version; a job is ``tuning``; a new version is ``rolling_out`` as the canary; after its
promotion some sessions are ``holding_back`` with the old one."""


class Alarms(msgspec.Struct, frozen=True):
    """How often the watch over a version, by a scorer, had raised the alarm."""

    version: int
    scorer: str
    number: int


class Learned(msgspec.Struct, frozen=True):
    """Labels up to `until` were in the dataset of a version, or of those that it goes on from."""

    version: int
    until: datetime


class Rollout(msgspec.Struct, frozen=True):
    """A new version on its way.

    Attributes:
        version: the new one.
        incumbent: the stable one that it is held against.
        by_person: whether a person set the canary; then nobody but a person takes it further.
        began_at, step_began_at: when the rollout and its present step began.
        step: the index of the present weight in the policy's steps.
        sessions_before, total_before: pairs of sessions that were seen before the present step, or the promotion, and
            the sum of their differences.
        alarms: those of the new version when it was promoted; None before, or where it had not been watched yet.
    """

    version: int
    incumbent: int
    began_at: datetime
    step_began_at: datetime
    by_person: bool = False
    step: int = 0
    sessions_before: int = 0
    alarms: Alarms | None = None
    total_before: float = 0.0


class LoopState(msgspec.Struct, frozen=True):
    """Where the loop is with an adapter.

    Attributes:
        phase: what is under way.
        cycle: counts retrainings and rollouts, so that each has a name of its own.
        since: when the phase began.
        revision: the deployment's revision that the loop knows: its own last one, or what it found when the cycle
            began; 0 before the first.
        job: the tuning job under way, or the last one.
        tuned_at: when the last training ended.
        answered: the alarms that trainings answered; those that came later begin the next one.
        labels_until: labels up to here were there at the last training; later ones count as new.
        learned: what the versions that the loop made learned from.
        rollout: what is rolling out or held back.
    """

    phase: Phase = "watching"
    cycle: int = 0
    since: datetime | None = None
    revision: int = 0
    job: str | None = None
    tuned_at: datetime | None = None
    answered: tuple[Alarms, ...] = ()
    labels_until: datetime | None = None
    learned: tuple[Learned, ...] = ()
    rollout: Rollout | None = None

    def learned_by(self, version: int) -> datetime | None:
        """Up to when labels were in the version's dataset; None if the loop did not make it."""
        return next((each.until for each in self.learned if each.version == version), None)
