"""What can be decided, each with its reason.

A verdict names an act and why; `would_change` says in plain words what would make it another one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Act = Literal[
    "wait",
    "ask",
    "retrain",
    "begin_rollout",
    "watch_canary",
    "next_step",
    "promote",
    "end_holdback",
    "roll_back",
    "end_cycle",
    "take_up",
    "stand_back",
]
"""wait            nothing is to be done now
ask             a person's approval is wanted
retrain         a tuning job
begin_rollout   a new version becomes the canary, at the first weight
watch_canary    a person's canary is watched from now on
next_step       the canary's next weight
promote         the canary becomes stable; a share is held back
end_holdback    the share that was held back follows
roll_back       the version from before serves everyone again
end_cycle       what was under way is over without a new version; the stable one is watched again
take_up         a person's change is taken up without a pause: of their own canary, or made while the loop was stopped
stand_back      a person changed what was under way: it stays as it is, and the loop is paused for the adapter"""

CHANGING: frozenset[Act] = frozenset({"begin_rollout", "next_step", "promote", "end_holdback", "roll_back"})
"""Acts that change a deployment."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One decision.

    Attributes:
        act: what is to be done.
        outcome: a word for it, which metrics count, such as ``worse_than_stable``.
        rule: the rule that it follows from, with its numbers.
        reason: why, for people.
        would_change: what would make it another one, for people.
        inputs: the values that the rule was applied to, as JSON.
        version: which version it is about; 0 is all of the adapter.
        weight: of the canary, for acts that set one.
        wanted: what approval is asked for: ``retrain`` or ``promote``.
    """

    act: Act
    outcome: str
    rule: str
    reason: str
    would_change: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    version: int = 0
    weight: float | None = None
    wanted: str | None = None
