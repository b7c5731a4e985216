"""What a child process tells the worker: one JSON object a line, on the pipe that was its standard output."""

from typing import Any, Literal

import msgspec

Level = Literal["info", "warn", "error"]


class Told(msgspec.Struct, frozen=True, tag="told"):
    """Something worth reading, for the job's events."""

    message: str
    level: Level = "info"


class Step(msgspec.Struct, frozen=True, tag="step"):
    """One optimizer step.

    Attributes:
        step, total: this step and how many there will be at most.
        epoch: how many passes over the training split this is, with a fraction.
        loss: on this step's tokens (nats a token; DPO: its own loss).
        token_accuracy: the share of tokens that were the likeliest; None where it is not known.
        gradient_norm: before clipping.
        tokens: that were trained on since the job began.
        tokens_per_second: lately.
        memory_bytes: the most that was held: of the device on a GPU, else of the process.
        remaining_s: until the last step, as things go.
        extra: what a method has beside these, such as DPO's margins.
    """

    step: int
    total: int
    epoch: float
    loss: float
    learning_rate: float
    gradient_norm: float | None
    tokens: int
    tokens_per_second: float
    memory_bytes: int
    remaining_s: float
    token_accuracy: float | None = None
    extra: dict[str, float] = {}


class Evaluated(msgspec.Struct, frozen=True, tag="evaluated"):
    """What the validation split said after a step."""

    step: int
    loss: float
    token_accuracy: float | None = None


class Saved(msgspec.Struct, frozen=True, tag="saved"):
    """A checkpoint from which training can go on lies in `folder`, inside the workspace."""

    step: int
    folder: str
    is_best: bool
    metrics: dict[str, float]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """It cannot be done, and trying again would not help. The message is written for the client."""

    code: str
    message: str
    param: str | None = None


class Stopped(msgspec.Struct, frozen=True, tag="stopped"):
    """It stopped because it was asked to (SIGTERM), after saving what it had."""

    step: int


class Done(msgspec.Struct, frozen=True, tag="done"):
    """All is done, and the results lie in the workspace."""

    result: dict[str, Any]


Message = Told | Step | Evaluated | Saved | Failed | Stopped | Done


def encode(message: Message) -> bytes:
    """One line."""
    return msgspec.json.encode(message) + b"\n"


def decode(line: bytes) -> Message:
    """The message of a line.

    Raises:
        msgspec.DecodeError: it is none.
    """
    found: Message = msgspec.json.decode(line, type=Message)
    return found
