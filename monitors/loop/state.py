"""Where the loop is with an adapter; stored as JSON, and changed only together with the decision that changed it."""

from datetime import datetime
from typing import Literal

import msgspec

Phase = Literal["watching", "tuning", "rolling_out", "holding_back"]
"""``watching`` the stable version; a job is ``tuning``; a new version is ``rolling_out`` as the canary; after its
promotion some sessions are ``holding_back`` with the old one."""


class Rollout(msgspec.Struct, frozen=True):
    """A new version on its way.

    Attributes:
        version: the new one.
        incumbent: the stable one that it is held against.
        by_person: whether a person set the canary; then nobody but a person takes it further.
        began_at, step_began_at: when the rollout and its present step began.
        step: the index of the present weight in the policy's steps.
        sessions_before: pairs of sessions that were seen before the present step.
    """

    version: int
    incumbent: int
    began_at: datetime
    step_began_at: datetime
    by_person: bool = False
    step: int = 0
    sessions_before: int = 0


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
        answered: what the last training answered: the version, the scorer, and how many alarms there had been.
        labels_until: labels up to here were there at the last training; later ones count as new.
        learned_until: labels up to here were in the dataset of a version that was promoted.
        rollout: what is rolling out or held back.
    """

    phase: Phase = "watching"
    cycle: int = 0
    since: datetime | None = None
    revision: int = 0
    job: str | None = None
    tuned_at: datetime | None = None
    answered: tuple[int, str, int] = (0, "", 0)
    labels_until: datetime | None = None
    learned_until: datetime | None = None
    rollout: Rollout | None = None
