"""What training tells as it goes, and how it is stopped."""

import math
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuner.errors import JobFailed, StoppedAt
from tuner.messages import Evaluated, Message, Saved, Step
from tuner.training.begun import Clock
from tuner.training.checkpoints import strip
from tuner.training.machine import peak_memory
from tuner.training.plan import Plan
from tuner.training.together import any_of_us, wait_for_all

_LATELY = 20
"""Steps over which tokens per second are taken."""
_EXTRA = "rewards/"
"""What DPO logs beside its loss begins with that."""


class Listener(Protocol):
    """Whoever started the training: hears what is told, and may ask it to stop."""

    @property
    def stop_asked(self) -> bool:
        """Whether training is to stop after this step."""
        ...

    def __call__(self, message: Message, /) -> None:
        """Hear a message."""
        ...


class Reporter(TrainerCallback):  # type: ignore[misc]  # untyped in transformers
    """Tells each step, evaluation and checkpoint; stops after a step when asked to, and at a loss that is no number.

    Attributes:
        stopped: whether it stopped because it was asked to.
    """

    def __init__(self, listener: Listener, clock: Clock, rows_at_once: int) -> None:
        self.stopped = False
        self._tell = listener
        self._clock = clock
        self._plan = clock.plan
        self._rows_at_once = rows_at_once
        self._recent: deque[tuple[float, int]] = deque(maxlen=_LATELY)  # seconds and tokens of a step
        self._began = self._step_began = 0.0
        self._first_step = self._tokens = 0
        self._loss = math.nan
        self._validation: dict[str, float] = {}

    def on_train_begin(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_kwargs: Any
    ) -> None:
        """Start the clock."""
        if any_of_us(self._tell.stop_asked):
            raise StoppedAt(state.global_step)
        state.train_batch_size = self._rows_at_once  # a resumed run had the one before
        self._began = time.monotonic()
        self._first_step, self._tokens = state.global_step, state.num_input_tokens_seen

    def on_step_begin(
        self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_kwargs: Any
    ) -> None:
        """Take the time."""
        self._step_began = time.monotonic()

    def on_step_end(
        self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_kwargs: Any
    ) -> TrainerControl:
        """Stop here if asked to, with a checkpoint; there is nothing to stop after the last step."""
        tokens = state.num_input_tokens_seen
        self._recent.append((time.monotonic() - self._step_began, tokens - self._tokens))
        self._tokens = tokens
        if any_of_us(self._tell.stop_asked) and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True
        return control

    def on_log(
        self,
        _args: TrainingArguments,
        state: TrainerState,
        _control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_kwargs: Any,
    ) -> None:
        """Tell a step; the logs of evaluations and of the end come here too, and are told elsewhere."""
        state.log_history.clear()  # it would be written into every checkpoint, longer each time
        if logs is None or "loss" not in logs:
            return
        self._require_finite(state.global_step, "loss", logs["loss"])
        self._require_finite(state.global_step, "gradient norm", logs.get("grad_norm", 0.0))
        self._loss = logs["loss"]
        self._tell(self._step(state, logs))

    def on_evaluate(
        self,
        _args: TrainingArguments,
        state: TrainerState,
        _control: TrainerControl,
        metrics: Mapping[str, float],
        **_kwargs: Any,
    ) -> None:
        """Tell the validation loss, without which early stopping would be blind."""
        loss = metrics["eval_loss"]
        self._require_finite(state.global_step, "validation loss", loss)
        accuracy = metrics.get("eval_mean_token_accuracy")
        self._tell(Evaluated(state.global_step, loss, accuracy))
        self._validation = {"full_valid_loss": loss}
        if accuracy is not None:
            self._validation["full_valid_mean_token_accuracy"] = accuracy

    def on_save(self, args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_kwargs: Any) -> None:
        """Tell of the checkpoint, once every process has written its part."""
        wait_for_all()
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            strip(folder)
            self._clock.now().write(folder)
            is_best = self._plan.validation_rows == 0 or state.best_global_step == state.global_step
            metrics = {"train_loss": self._loss, **self._validation}
            self._tell(Saved(state.global_step, str(folder), is_best=is_best, metrics=metrics))
        self._validation = {}

    def _step(self, state: TrainerState, logs: Mapping[str, Any]) -> Step:
        seconds, tokens = map(sum, zip(*self._recent, strict=True))
        done = state.global_step - self._first_step
        return Step(
            step=state.global_step,
            total=state.max_steps,
            epoch=state.epoch or 0.0,
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            gradient_norm=logs.get("grad_norm"),
            tokens=state.num_input_tokens_seen,
            tokens_per_second=tokens / seconds,
            memory_bytes=peak_memory(self._plan.device),
            remaining_s=(time.monotonic() - self._began) / done * (state.max_steps - state.global_step),
            token_accuracy=logs.get("mean_token_accuracy"),
            extra={name: float(value) for name, value in logs.items() if name.startswith(_EXTRA)},
        )

    def _require_finite(self, step: int, what: str, value: float) -> None:
        if not math.isfinite(value):
            message = (
                f"the {what} of step {step} is not a finite number at a learning rate of up to "
                f"{self._plan.learning_rate:.2g}; lower `learning_rate_multiplier`, or have larger batches"
            )
            raise JobFailed("training_failed", message, "learning_rate_multiplier")


def callbacks_of(plan: Plan, reporter: Reporter) -> list[TrainerCallback]:
    """What a trainer is given: the reporter, and patience where there is something to be patient about."""
    if plan.validation_rows == 0 or plan.patience == 0:
        return [reporter]
    return [reporter, EarlyStoppingCallback(plan.patience, plan.least_change)]
