"""How an adapter is trained, decided before it begins; it stays with the version as part of its lineage.

Knows no torch, as the worker reads plans too.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from registry.lora_config import CONFIG_FILE
from registry.tuning.orders import Method, Quantization, TuningOrder
from tuner.errors import JobFailed
from tuner.training import auto

Targets = Literal["all-linear"] | list[str]
Dtype = Literal["bfloat16", "float32"]

CLIPPING = 1.0
LAST_RATE_SHARE = 0.1
BETAS = (0.9, 0.999)


class LoraShape(msgspec.Struct, frozen=True):
    """What kind of LoRA it is.

    Attributes:
        rank, alpha: LoRA's r and alpha.
        rslora: whether the scale is alpha / sqrt(r) in place of alpha / r.
        targets: last names of the modules that are changed, or every linear layer but the last.
    """

    rank: int
    alpha: float
    rslora: bool
    targets: Targets


class Plan(msgspec.Struct, frozen=True):
    """Every hyperparameter, with a value in place of each "auto".

    Attributes:
        rows, validation_rows: of the splits.
        epochs: passes over the training split, at most.
        batch_size: rows for each optimizer step, of all processes together.
        steps: optimizer steps, at most.
        learning_rate: at its peak; after `warmup_steps` it falls by a cosine to `last_rate_share` of that.
        clipping: the largest gradient norm.
        betas, weight_decay: AdamW's.
        beta: DPO's; None for the supervised method.
        dtype: in which the base model is held and computed with, where it is not quantized.
        processes: that train together.
        evaluate_every: steps between evaluations, each with a checkpoint.
        patience: evaluations without an improvement by `least_change` until it ends early; 0 never does.
    """

    method: Method
    seed: int
    rows: int
    validation_rows: int
    epochs: int
    batch_size: int
    steps: int
    warmup_steps: int
    learning_rate: float
    lora: LoraShape
    quantization: Quantization
    dtype: Dtype
    device: Literal["cpu", "cuda"]
    processes: int
    gradient_checkpointing: bool
    evaluate_every: int
    patience: int
    least_change: float
    beta: float | None = None
    schedule: str = "cosine"
    last_rate_share: float = LAST_RATE_SHARE
    clipping: float = CLIPPING
    optimizer: str = "AdamW"
    betas: tuple[float, float] = BETAS
    weight_decay: float = 0.0


class Measured(msgspec.Struct, frozen=True):
    """What training measured.

    Attributes:
        tokens: that were trained on, prompts included and padding not.
        steps: that were done; fewer than planned where it ended early.
        best_step: the checkpoint that became the result.
        validation_loss: at that step; None without a validation split.
        rows_at_once: rows that went through a device together at last; fewer than a batch where memory was short.
        seconds: that training took, in every process that went on with it. Steps that were lost behind a checkpoint
            do not count.
        gpu_seconds: the same, of each GPU; 0 on a CPU.
        peak_memory_bytes: of the GPU, else of this process.
        device_name: the GPU's name, or ``cpu``.
    """

    tokens: int
    steps: int
    best_step: int
    validation_loss: float | None
    rows_at_once: int
    seconds: float
    gpu_seconds: float
    peak_memory_bytes: int
    device_name: str


class Training(msgspec.Struct, frozen=True):
    """What training.json holds; `measured` once it is done."""

    plan: Plan
    measured: Measured | None = None

    def write(self, path: Path) -> None:
        """Leave it for the stages after this one."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    @staticmethod
    def read(path: Path) -> "Training":
        """What `write` left."""
        return msgspec.json.decode(path.read_bytes(), type=Training)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a plan depends on beside the order.

    Attributes:
        hidden_size: the base model's width.
        start: the shape of the adapter that training goes on from.
    """

    rows: int
    validation_rows: int
    hidden_size: int
    start: LoraShape | None
    device: Literal["cpu", "cuda"]
    dtype: Dtype
    processes: int = 1


def make_plan(order: TuningOrder, given: Circumstances) -> Plan:
    """Decide everything.

    Raises:
        JobFailed: the order asks for another shape than that of the adapter it goes on from.
    """
    wanted = order.hyperparameters
    epochs = auto.epochs(given.rows) if wanted.n_epochs == "auto" else wanted.n_epochs
    batch_size = _batch_size(order, given)
    steps_per_epoch = math.ceil(given.rows / batch_size)
    return Plan(
        method=order.method,
        seed=order.seed,
        rows=given.rows,
        validation_rows=given.validation_rows,
        epochs=epochs,
        batch_size=batch_size,
        steps=steps_per_epoch * epochs,
        warmup_steps=auto.warmup_steps(steps_per_epoch * epochs),
        learning_rate=_learning_rate(order, given.hidden_size),
        lora=lora_shape(order, given.start),
        quantization=order.lora.quantization,
        dtype=given.dtype,
        device=given.device,
        processes=given.processes,
        gradient_checkpointing=given.device == "cuda",
        evaluate_every=max(1, steps_per_epoch // order.stopping.checkpoints),
        patience=order.stopping.patience,
        least_change=order.stopping.least_change,
        beta=_beta(order),
    )


def held_plan(plan: Plan, given: Circumstances) -> Plan:
    """The plan that a training began with, as far as the machine on which it goes on can keep it.

    Its device and its processes are its own; it may not know bfloat16, and its processes must be able to share out a
    batch evenly. The number of steps stays, and so do the learning rates.
    """
    return msgspec.structs.replace(
        plan,
        device=given.device,
        dtype="float32" if given.dtype == "float32" else plan.dtype,
        processes=given.processes,
        gradient_checkpointing=given.device == "cuda",
        batch_size=_shared_out(plan.batch_size, given.processes),
    )


def read_shape(folder: Path) -> LoraShape:
    """The shape of an adapter that the registry keeps."""
    config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text())
    targets = config["target_modules"]
    return LoraShape(
        rank=config["r"],
        alpha=config["lora_alpha"],
        rslora=bool(config.get("use_rslora")),
        targets=targets if targets == "all-linear" else sorted(targets),
    )


def _batch_size(order: TuningOrder, given: Circumstances) -> int:
    """As asked for or by the rule, as the processes can share it out."""
    wanted = order.hyperparameters.batch_size
    batch_size = auto.batch_size(given.rows) if wanted == "auto" else min(wanted, given.rows)
    return _shared_out(batch_size, given.processes)


def _shared_out(batch_size: int, processes: int) -> int:
    """Rounded up to what the processes can share out evenly."""
    return math.ceil(batch_size / processes) * processes


def _learning_rate(order: TuningOrder, hidden_size: int) -> float:
    rule = auto.preference_learning_rate if order.method == "dpo" else auto.learning_rate
    wanted = order.hyperparameters.learning_rate_multiplier
    return rule(hidden_size) * (1.0 if wanted == "auto" else wanted)


def _beta(order: TuningOrder) -> float | None:
    if order.method != "dpo":
        return None
    wanted = order.hyperparameters.beta
    return auto.beta() if wanted == "auto" else wanted


def lora_shape(order: TuningOrder, start: LoraShape | None) -> LoraShape:
    """What kind of LoRA an order asks for.

    Raises:
        JobFailed: another kind than that of the adapter that it goes on from.
    """
    wanted = order.lora
    if start is not None:
        _require_shape(order, start)
        return start
    rank = auto.rank() if wanted.rank == "auto" else wanted.rank
    alpha = auto.alpha(rank, rslora=wanted.rslora) if wanted.alpha == "auto" else wanted.alpha
    targets = wanted.targets if wanted.targets == "all-linear" else sorted(wanted.targets)
    return LoraShape(rank, alpha, wanted.rslora, targets)


def _require_shape(order: TuningOrder, start: LoraShape) -> None:
    """An adapter keeps its shape when training goes on from it; only what is left open takes it over."""
    wanted, name = order.lora, f"{order.adapter}@{order.start_from}"
    asked = {
        "rank": (None if wanted.rank == "auto" else wanted.rank, start.rank),
        "alpha": (None if wanted.alpha == "auto" else wanted.alpha, start.alpha),
        "rslora": (wanted.rslora or None, start.rslora),
        "targets": (None if wanted.targets == "all-linear" else sorted(wanted.targets), start.targets),
    }
    for param, (asked_for, has) in asked.items():
        if asked_for is not None and asked_for != has:
            message = (
                f"`{param}` is {asked_for}, but training goes on from {name}, which has {has}: leave it out, or begin "
                "with a new adapter"
            )
            raise JobFailed("invalid_hyperparameters", message, param)
