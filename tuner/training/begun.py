"""What a checkpoint knows of the training that it belongs to: the plan that is held to, and the time that it took."""

import time
from pathlib import Path

import msgspec

from tuner.training.plan import Plan

BEGUN_FILE = "begun.json"


class Begun(msgspec.Struct, frozen=True):
    """A training so far.

    Attributes:
        seconds: that it took, in every process that went on with it.
        gpu_seconds: the same, of each GPU.
    """

    plan: Plan
    seconds: float = 0.0
    gpu_seconds: float = 0.0

    def write(self, checkpoint: Path) -> None:
        """Leave it in the checkpoint's folder."""
        (checkpoint / BEGUN_FILE).write_bytes(msgspec.json.encode(self))

    @staticmethod
    def read(checkpoint: Path) -> "Begun":
        """What `write` left."""
        return msgspec.json.decode((checkpoint / BEGUN_FILE).read_bytes(), type=Begun)


class Clock:
    """Adds the time from now on to that of a training so far."""

    def __init__(self, begun: Begun) -> None:
        self._begun = begun
        self._started = time.monotonic()

    @property
    def plan(self) -> Plan:
        """The training's."""
        return self._begun.plan

    def now(self) -> Begun:
        """The training so far."""
        seconds = time.monotonic() - self._started
        gpus = self.plan.processes if self.plan.device == "cuda" else 0
        return Begun(self.plan, self._begun.seconds + seconds, self._begun.gpu_seconds + seconds * gpus)
