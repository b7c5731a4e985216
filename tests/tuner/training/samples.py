"""Small trainings on the demo's base: a workspace with a dataset, an order, and somebody who listens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from demo import BASE_DIR, BASE_NAME
from demo.tickets import Ticket, training
from registry.base_model import BaseSpec, read_config
from registry.tuning.orders import DataOrder, Hyperparameters, LoraOrder, StoppingOrder, TuningOrder
from tuner.messages import Message, Saved, Step
from tuner.training.plan import Circumstances, Plan, make_plan
from tuner.workspace import TrainTask, Workspace

M = TypeVar("M", bound=Message)

BASE = BaseSpec(BASE_NAME, config=read_config(str(BASE_DIR)))


@dataclass
class Ear:
    """Keeps what it hears; asks to stop during the step `stop_after`, which is not the first."""

    stop_after: int | None = None
    heard: list[Message] = field(default_factory=list)
    stop_asked: bool = False

    def __call__(self, message: Message) -> None:
        """Hear a message."""
        self.heard.append(message)
        if isinstance(message, Step) and message.step + 1 == self.stop_after:
            self.stop_asked = True  # as by a signal that comes during the next step

    def of(self, kind: type[M]) -> list[M]:
        """The messages of one kind."""
        return [message for message in self.heard if isinstance(message, kind)]

    @property
    def last_saved(self) -> Saved:
        """The newest checkpoint."""
        return self.of(Saved)[-1]


def workspace_of(folder: Path, rows: int = 48, validation: int = 16, holdout: int = 8, seed: int = 5) -> Workspace:
    """A workspace whose dataset is tickets of the demo with their labels."""
    workspace = Workspace(folder)
    workspace.dataset.mkdir(parents=True)
    tickets = training(rows + validation + holdout, seed)
    splits = {"train": rows, "validation": validation, "holdout": holdout}
    for name, count in splits.items():
        write_split(workspace, name, tickets[:count])
        tickets = tickets[count:]
    return workspace


def write_split(workspace: Workspace, name: str, tickets: Sequence[Ticket]) -> None:
    """Write one file of the dataset."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": ticket.message},
                {"role": "assistant", "content": ticket.answer},
            ]
        }
        for ticket in tickets
    ]
    (workspace.dataset / f"{name}.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def order(
    *,
    epochs: int = 2,
    batch: int = 8,
    multiplier: float = 2.0,
    checkpoints: int = 2,
    patience: int = 3,
    least_change: float = 0.0,
    **more: Any,
) -> TuningOrder:
    """An order for a short training; LoRA's own fields go in `lora`."""
    hyperparameters = Hyperparameters(batch_size=batch, learning_rate_multiplier=multiplier, n_epochs=epochs)
    stopping = StoppingOrder(patience=patience, least_change=least_change, checkpoints=checkpoints)
    values: dict[str, Any] = {
        "adapter": "support",
        "base": BASE_NAME,
        "training_file": "file-1",
        "seed": 7,
        "hyperparameters": hyperparameters,
        "stopping": stopping,
        "lora": LoraOrder(),
        "data": DataOrder(),
    }
    return TuningOrder(**values | more)


def task(order: TuningOrder, **more: Any) -> TrainTask:
    """A task on the demo's base, on the CPU."""
    values: dict[str, Any] = {"base_model": str(BASE_DIR), "start_from": None, "device": "cpu", "context": 512}
    values["threads"] = 1  # for so small a model more of them cost more than they bring
    return TrainTask(order=order, **values | more)


def given(**values: Any) -> Circumstances:
    """1,000 rows for a 7B on a GPU."""
    usual: dict[str, Any] = {"rows": 1000, "validation_rows": 100, "hidden_size": 4096, "start": None}
    return Circumstances(**usual | {"device": "cuda", "dtype": "bfloat16"} | values)


def planned(*, method: str = "supervised", **values: Any) -> Plan:
    """The plan of an order that leaves everything open."""
    return make_plan(order(hyperparameters=Hyperparameters(), method=method), given(**values))
