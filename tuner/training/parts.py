"""What a trainer is put together of, whatever its method."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase, TrainerCallback

from tuner.training.model import CHECKPOINTING
from tuner.training.plan import Plan
from tuner.training.tables import Splits


@dataclass(frozen=True, slots=True)
class Parts:
    """What the method's module makes a trainer of.

    Attributes:
        arguments: of transformers' TrainingArguments, for the method's own to build on; see `arguments_of`.
    """

    plan: Plan
    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    splits: Splits
    arguments: dict[str, Any]
    callbacks: Sequence[TrainerCallback]


def arguments_of(plan: Plan, rows_at_once: int, folder: Path) -> dict[str, Any]:
    """What every method's trainer is told.

    Args:
        plan: of the training.
        rows_at_once: rows that go through a device together; a batch of more is accumulated.
        folder: where checkpoints go.
    """
    return {
        "output_dir": str(folder),
        "seed": plan.seed,
        "data_seed": plan.seed,
        **_batches(plan, rows_at_once),
        **_optimization(plan),
        **_precision(plan),
        **_evaluation(plan),
        "include_num_input_tokens_seen": "non_padding",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a loss that is no number is to be seen, not smoothed over
        "report_to": "none",
        "disable_tqdm": True,
    }


def _batches(plan: Plan, rows_at_once: int) -> dict[str, Any]:
    return {
        "num_train_epochs": plan.epochs,
        "max_steps": plan.steps,  # which a machine that goes on with other batches keeps
        "per_device_train_batch_size": rows_at_once,
        "per_device_eval_batch_size": rows_at_once,
        "gradient_accumulation_steps": plan.batch_size // (rows_at_once * plan.processes),
        "train_sampling_strategy": "group_by_length",
    }


def _optimization(plan: Plan) -> dict[str, Any]:
    return {
        "optim": "adamw_torch",
        "adam_beta1": plan.betas[0],
        "adam_beta2": plan.betas[1],
        "weight_decay": plan.weight_decay,
        "learning_rate": plan.learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": plan.last_rate_share},
        "warmup_steps": plan.warmup_steps,
        "max_grad_norm": plan.clipping,
    }


def _precision(plan: Plan) -> dict[str, Any]:
    return {
        "use_cpu": plan.device == "cpu",
        "bf16": plan.dtype == "bfloat16",
        "gradient_checkpointing": plan.gradient_checkpointing,
        "gradient_checkpointing_kwargs": dict(CHECKPOINTING) if plan.gradient_checkpointing else None,
        "dataloader_pin_memory": plan.device == "cuda",
    }


def _evaluation(plan: Plan) -> dict[str, Any]:
    evaluates = plan.validation_rows > 0
    return {
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": plan.evaluate_every if evaluates else None,
        "metric_for_best_model": "eval_loss" if evaluates else None,
        "greater_is_better": False if evaluates else None,
        "save_strategy": "steps",
        "save_steps": plan.evaluate_every,
        "save_total_limit": None,  # whoever keeps the checkpoints elsewhere says which may go
        "restore_callback_states_from_checkpoint": True,
    }
