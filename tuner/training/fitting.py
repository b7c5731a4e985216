"""Training itself, whatever the method: with as many rows at once as fit, from the newest checkpoint on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer

from tuner.errors import JobFailed, StoppedAt
from tuner.messages import Told
from tuner.training import checkpoints
from tuner.training.begun import Clock
from tuner.training.callbacks import Listener, Reporter, callbacks_of
from tuner.training.machine import Machine, peak_memory
from tuner.training.memory import is_memory_short, largest_divisor, within_memory
from tuner.training.model import hold_in_float32, load_model
from tuner.training.parts import Parts, arguments_of
from tuner.training.plan import Measured, Plan
from tuner.training.tables import Splits
from tuner.training.together import as_the_first_has_it, is_first
from tuner.workspace import TrainTask, Workspace

MakeTrainer = Callable[[Parts], Trainer]


@dataclass(frozen=True, slots=True)
class Fitting:
    """One training, which may take several attempts.

    Attributes:
        clock: runs; has the plan.
        make_trainer: the method's.
    """

    task: TrainTask
    clock: Clock
    machine: Machine
    tokenizer: PreTrainedTokenizerBase
    splits: Splits
    workspace: Workspace
    listener: Listener
    make_trainer: MakeTrainer

    @property
    def plan(self) -> Plan:
        """What is held to."""
        return self.clock.plan

    def fit(self) -> Measured:
        """Train until the plan is done or patience is; checkpoints are in the workspace then.

        Raises:
            JobFailed: memory does not suffice for a single row, or the loss became no number.
            StoppedAt: it was asked to stop; the newest checkpoint is of that step.
        """
        if is_first():
            checkpoints.drop_after(self.workspace.checkpoints, self.task.resume_step)
        share = self.plan.batch_size // self.plan.processes
        last = self._last()
        rows_at_once = largest_divisor(share, share if last is None else min(share, checkpoints.rows_at_once(last)))
        if last is None or not checkpoints.is_last(last, self.plan):
            alone = self.plan.processes == 1
            rows_at_once = within_memory(self._attempt, rows_at_once, share, self._tell_of_parts, alone=alone)
        return self._measured(rows_at_once)

    def _last(self) -> Path | None:
        return checkpoints.newest(self.workspace.checkpoints)

    def _attempt(self, rows_at_once: int) -> int:
        """Train with so many rows at once."""
        reporter = Reporter(self.listener, self.clock, rows_at_once)
        trainer = self._trainer(reporter, rows_at_once)
        last = self._last()
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
        if reporter.stopped:
            raise StoppedAt(trainer.state.global_step)
        return rows_at_once

    def _trainer(self, reporter: Reporter, rows_at_once: int) -> Trainer:
        """Everything anew, as a trainer whose memory did not suffice may be in any state."""
        try:
            trainer = self.make_trainer(self._parts(reporter, rows_at_once))  # which puts the model on the device
            hold_in_float32(trainer.model)
        except (RuntimeError, MemoryError) as error:
            if is_memory_short(error):
                raise JobFailed("out_of_memory", _BASE_TOO_LARGE) from error
            raise
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _parts(self, reporter: Reporter, rows_at_once: int) -> Parts:
        start_from = None if self.task.start_from is None else Path(self.task.start_from)
        return Parts(
            plan=self.plan,
            model=load_model(self.task.base_model, self.plan, start_from),
            tokenizer=self.tokenizer,
            splits=self.splits,
            arguments=arguments_of(self.plan, rows_at_once, self.workspace.checkpoints),
            callbacks=callbacks_of(self.plan, reporter),
        )

    def _tell_of_parts(self, rows_at_once: int) -> None:
        share = self.plan.batch_size // self.plan.processes
        last = self._last()
        step = 1 if last is None else checkpoints.read_state(last)["global_step"] + 1
        message = (
            f"A batch does not fit in memory: from step {step} on, {rows_at_once} of its {share} rows go through at "
            "once and the gradients are added up. The result is the same; it takes longer"
        )
        self.listener(Told(message, "warn"))

    def _measured(self, rows_at_once: int) -> Measured:
        state, begun = as_the_first_has_it(self._last_state), self.clock.now()
        return Measured(
            tokens=state["num_input_tokens_seen"],
            steps=state["global_step"],
            best_step=_best_step(state),
            validation_loss=state["best_metric"],
            rows_at_once=rows_at_once,
            seconds=round(begun.seconds, 3),
            gpu_seconds=round(begun.gpu_seconds, 3),
            peak_memory_bytes=peak_memory(self.machine.device),
            device_name=self.machine.name,
        )

    def _last_state(self) -> dict[str, Any]:
        """What the trainer noted when it ended."""
        last = self._last()
        assert last is not None
        return checkpoints.read_state(last)


def _best_step(state: dict[str, Any]) -> int:
    """Without a validation split, nobody knows of a better one than the last."""
    step: int = state["best_global_step"] or state["global_step"]
    return step


_BASE_TOO_LARGE = (
    'the base model does not fit in memory; quantize it (`quantization`: "nf4" takes about half a byte for each '
    "parameter), or train it on a larger machine"
)
