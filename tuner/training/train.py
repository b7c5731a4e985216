"""Training, from a frozen dataset to the files of an adapter."""

from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from tuner.data.tokens import load_tokenizer
from tuner.messages import Told
from tuner.training.begun import Begun, Clock
from tuner.training.callbacks import Listener
from tuner.training.checkpoints import require_usable
from tuner.training.fitting import Fitting
from tuner.training.machine import Machine, set_up
from tuner.training.methods import TrainingMethod, method_of
from tuner.training.model import hidden_size
from tuner.training.plan import Circumstances, Measured, Plan, Training, held_plan, make_plan, read_shape
from tuner.training.probes import write_probes
from tuner.training.saving import save_adapter
from tuner.training.tables import Splits
from tuner.training.together import is_first, number, wait_for_all
from tuner.workspace import TrainTask, Workspace

_PROBED = 200
"""Rows of a split that probes are chosen among."""
_OF_MACHINES = ("device", "dtype", "processes", "batch_size")
"""What of a plan depends on the machine, as far as it changes the result."""


def train(task: TrainTask, workspace: Workspace, listener: Listener) -> dict[str, Any]:
    """Make an adapter of the dataset in the workspace.

    Goes on from the newest checkpoint in the workspace where there is one. Leaves the adapter's files and training.json
    there.

    Returns:
        What was measured, as `tuner.training.plan.Measured` has it.

    Raises:
        JobFailed: it cannot be done as asked, or memory does not suffice.
        StoppedAt: it was asked to stop; the newest checkpoint is of that step.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    method = method_of(task.order.method)
    # 1. The machine: its device, precision and memory.
    machine = set_up(task)
    # 2. The data, as the tokens that the engine will see.
    tokenizer = load_tokenizer(task.base_model)
    splits = method.read_splits(workspace.dataset, workspace.tables / str(number()), tokenizer)
    # 3. The plan: a value for every hyperparameter, or what the checkpoint to go on from has of it.
    begun = _begun(task, workspace, _circumstances(task, splits, machine), listener)
    plan, clock = begun.plan, Clock(begun)
    _tell_plan(plan, listener)
    # 4. Base model, LoRA and trainer, put together and run until the steps are done or patience is.
    measured = Fitting(task, clock, machine, tokenizer, splits, workspace, listener, method.make_trainer).fit()
    _tell_end(plan, measured, listener)
    if is_first():
        # 5. The best checkpoint becomes the adapter's files.
        save_adapter(workspace.checkpoint(measured.best_step), workspace.adapter, task.order.base)
        # 6. Probes, by which an engine shows that it serves what was trained.
        _probe(task, workspace, machine, method, tokenizer, listener)
        # 7. How it was made, for the version's lineage.
        Training(plan, measured).write(workspace.training_file)
    wait_for_all()
    result: dict[str, Any] = msgspec.to_builtins(measured)
    return result


def _circumstances(task: TrainTask, splits: Splits, machine: Machine) -> Circumstances:
    return Circumstances(
        rows=len(splits.train),
        validation_rows=0 if splits.validation is None else len(splits.validation),
        hidden_size=hidden_size(task.base_model),
        start=None if task.start_from is None else read_shape(Path(task.start_from)),
        device=machine.device,
        dtype=machine.dtype,
        processes=machine.processes,
    )


def _begun(task: TrainTask, workspace: Workspace, given: Circumstances, listener: Listener) -> Begun:
    """The training so far: a new plan, or that of the checkpoint, so that no two schedules are mixed."""
    if task.resume_step is None:
        return Begun(make_plan(task.order, given))
    checkpoint = workspace.checkpoint(task.resume_step)
    begun = Begun.read(checkpoint)
    held = held_plan(begun.plan, given)
    require_usable(checkpoint, held)
    _tell_changes(begun.plan, held, listener)
    return msgspec.structs.replace(begun, plan=held)


def _tell_changes(plan: Plan, held: Plan, listener: Listener) -> None:
    before, now = msgspec.structs.asdict(plan), msgspec.structs.asdict(held)
    changes = [f"{name} {now[name]} in place of {before[name]}" for name in _OF_MACHINES if now[name] != before[name]]
    if changes:
        listener(
            Told(f"Training goes on by the plan that it began with, but on this machine: {', '.join(changes)}", "warn")
        )


def _tell_plan(plan: Plan, listener: Listener) -> None:
    lora, held = plan.lora, plan.dtype if plan.quantization == "none" else plan.quantization
    listener(
        Told(
            f"Training {plan.rows} rows for {plan.epochs} epochs of {plan.steps // plan.epochs} steps: batch "
            f"{plan.batch_size}, learning rate {plan.learning_rate:.3g}, rank {lora.rank}, alpha {lora.alpha:g}"
            f"{' (rsLoRA)' if lora.rslora else ''}, base model in {held}"
        )
    )
    if plan.validation_rows == 0:
        listener(Told("There is no validation split: training does not end early, and its last step is the result"))


def _tell_end(plan: Plan, measured: Measured, listener: Listener) -> None:
    if measured.steps < plan.steps:
        listener(
            Told(
                f"Training ended early at step {measured.steps} of {plan.steps}: {plan.patience} evaluations did not "
                f"improve the validation loss by {plan.least_change:g}"
            )
        )
    if measured.best_step < measured.steps:
        listener(Told(f"The best checkpoint is that of step {measured.best_step}; it becomes the result"))


def _probe(
    task: TrainTask,
    workspace: Workspace,
    machine: Machine,
    method: TrainingMethod,
    tokenizer: PreTrainedTokenizerBase,
    listener: Listener,
) -> None:
    """Write probes from the holdout, else from the validation split."""
    for split in ("holdout", "validation"):
        file = workspace.dataset / f"{split}.jsonl"
        found = list(islice(method.conversations(file, tokenizer), _PROBED))
        if write_probes(task.base_model, workspace.adapter, found, device=machine.device, context=task.context):
            return
    listener(Told("The version has no probes: engines that load it are held against the base model alone", "warn"))
