"""The trainer's checkpoints: folders of a few files, from which any machine goes on where another one stopped.

adapter_config.json, adapter_model.safetensors    the weights
optimizer.pt, scheduler.pt, rng_state*.pth        what training goes on with; optimizer.bin with FSDP
trainer_state.json                                steps, tokens, the best loss so far and patience
begun.json                                        the plan that is held to, and the time so far
pytorch_model_fsdp.bin                            the weights once more, as several GPUs read them; with FSDP alone
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from tuner.errors import JobFailed
from tuner.training.plan import Plan

STATE_FILE = "trainer_state.json"
_SHARED_OPTIMIZER = "optimizer.bin"

_KEPT = re.compile(
    r"adapter_config\.json|adapter_model\.safetensors|optimizer\.(pt|bin)|scheduler\.pt|scaler\.pt"
    r"|rng_state(_\d+)?\.pth|trainer_state\.json|begun\.json|pytorch_model_fsdp\.bin"
)
_NAME = re.compile(r"checkpoint-(\d+)")


def strip(folder: Path) -> None:
    """Leave what is needed to go on: no copies of the tokenizer, and nothing that holds this machine's paths."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif not _KEPT.fullmatch(path.name):
            path.unlink()


def drop_after(folder: Path, step: int | None) -> None:
    """Throw away the checkpoints of a run that are newer than a step; None throws all away.

    They may be of another attempt, of which nobody knows how it ended.
    """
    for number, path in _numbered(folder).items():
        if step is None or number > step:
            shutil.rmtree(path)


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint among those of a run; None without one."""
    found = _numbered(folder)
    whole = [step for step in found if (found[step] / STATE_FILE).is_file()]
    return found[max(whole)] if whole else None


def is_last(checkpoint: Path, plan: Plan) -> bool:
    """Whether training had ended when it was saved: all steps were done, or patience was."""
    state = read_state(checkpoint)
    if state["global_step"] >= plan.steps:
        return True
    waited = state["stateful_callbacks"].get("EarlyStoppingCallback", {}).get("attributes", {})
    return bool(waited) and waited["early_stopping_patience_counter"] >= plan.patience


def require_usable(checkpoint: Path, plan: Plan) -> None:
    """See that training can go on from a checkpoint by a plan.

    Raises:
        JobFailed: one device wrote it and several GPUs would share the model now, or the other way round. They keep the
            optimizer in files of different kinds.
    """
    is_shared = plan.device == "cuda" and plan.processes > 1
    if (checkpoint / _SHARED_OPTIMIZER).is_file() != is_shared:
        message = (
            "training cannot go on: its checkpoint is of one device and several GPUs would share the model now, or the "
            "other way round; ask for the job again"
        )
        raise JobFailed("training_failed", message)


def rows_at_once(checkpoint: Path) -> int:
    """How many rows went through a device together when it was saved."""
    rows: int = read_state(checkpoint)["train_batch_size"]
    return rows


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What the trainer noted of the run so far."""
    state: dict[str, Any] = json.loads((checkpoint / STATE_FILE).read_bytes())
    return state


def _numbered(folder: Path) -> dict[int, Path]:
    """The checkpoints of a run, by their step."""
    return {int(match[1]): path for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))}
