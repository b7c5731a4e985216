"""How a job ends that does not succeed.

JobFailed       it cannot be done as asked, and its client is told why
Interrupted     it was stopped: by a person, or because this tuner shuts down, makes room or lost it
ChildCrashed    a child process ended without a word; trying again may help
EngineAway      the engine, or the gateway before it, did not answer for too long; trying again may help
StoppedAt       inside a child: it stopped after a step, as it was asked to
"""

from typing import Literal

Cause = Literal["pause", "cancel", "shutdown", "engine", "lost"]
"""Why a job is to stop: a person paused or cancelled it, this tuner shuts down, its engine needs the GPU again, or
somebody else may hold the job by now."""


class JobFailed(Exception):
    """The job has failed for good.

    Attributes:
        code: a stable word for programs, such as ``invalid_training_file``.
        message: for the client: what was wrong, where, and what would be right; no paths, stacks or rows' contents.
        param: the field of the order that was wrong, where there is one (`TuningOrder.param_of`).
    """

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class Interrupted(Exception):
    """The job is to stop here; what it has is kept, but for a cancelled one."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause)
        self.cause = cause


class ChildCrashed(Exception):
    """A child process ended by a signal or an error of its own; the message says how."""


class EngineAway(Exception):
    """The engine, or the gateway before it, did not answer for as long as the settings wait; the message says how."""


class StoppedAt(Exception):
    """Training stopped after a step because it was asked to, with everything saved."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step
