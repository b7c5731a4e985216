"""Two versions' values matched into pairs, each value in one pair, in the order in which they come.

The first of one version waits for the first of the other. Where one version has many more, only its newest wait: so the
two of a pair are of about the same time, and a change of the traffic during a rollout is seen by both. Which values are
matched never depends on what they are.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias

MOST_WAITING = 200
"""Values of the version that has more of them which wait for the other's."""

Arm: TypeAlias = Literal["new", "old"]


@dataclass
class Matching:
    """What waits for its other half; all of one version.

    Attributes:
        arm: whose values wait; of no meaning while none does.
        waiting: they, the oldest first.
    """

    arm: Arm = "new"
    waiting: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_WAITING))

    def take(self, arm: Arm, value: float) -> tuple[float, float] | None:
        """The next value; the pair that it makes, the new version's first, or None if it waits."""
        if not self.waiting:
            self.arm = arm
        if arm == self.arm:
            self.waiting.append(value)
            return None
        other = self.waiting.popleft()
        return (value, other) if arm == "new" else (other, value)

    def state(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {"arm": self.arm, "waiting": list(self.waiting)}

    @classmethod
    def from_state(cls, state: dict[str, Any] | None) -> Self:
        """The matching that `state` was taken from; a new one from None."""
        if state is None:
            return cls()
        waiting: Sequence[float] = state["waiting"]
        return cls(state["arm"], deque(waiting, MOST_WAITING))
