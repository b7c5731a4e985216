"""A stand-in for the child processes: it speaks as they do, does what a script says, and needs no torch.

python -m tests.tuner.fake_child FOLDER SCRIPT
"""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from tuner.data.bad_rows import BadRows
from tuner.errors import JobFailed, StoppedAt
from tuner.messages import Done, Evaluated, Failed, Message, Saved, Step, Stopped, Told
from tuner.telling import Teller
from tuner.workspace import PrepareTask, TrainTask, Workspace

TOKENS_A_STEP = 100


class Script(msgspec.Struct, frozen=True):
    """What the child does.

    Attributes:
        steps: of a training, each with a pause of `step_s` before it.
        checkpoint_every: steps between checkpoints.
        prepare_s: how long making a dataset takes.
        load_s: how long the model of a training takes to load.
        fails_at, dies_at, hangs_at: the step before which it fails, kills itself (once a job), or goes on no more.
        fails_with: the code of its failure.
        is_deaf: whether SIGTERM is nothing to it.
        prints: what it prints at its begin, besides its messages.
        longest: how long a line is that it prints then.
        leaves: whether it leaves a process of its own behind, which holds its output.
        bad_rows: lines of the uploaded file that it cannot use; with `fails_at` 0 it fails for them.
        salt: what makes the weights others, as on a GPU, where training gives none twice.
    """

    steps: int = 8
    step_s: float = 0.0
    checkpoint_every: int = 2
    prepare_s: float = 0.0
    load_s: float = 0.0
    fails_at: int | None = None
    fails_with: str = "training_failed"
    dies_at: int | None = None
    hangs_at: int | None = None
    is_deaf: bool = False
    prints: str = ""
    longest: int = 0
    leaves: bool = False
    bad_rows: int = 0
    salt: int = 0


def dataset_files(content: bytes) -> dict[str, bytes]:
    """The dataset that it makes of an upload."""
    about = {"counts": {"train": 8}, "sources": {"uploaded": 8}, "parents": [], "report": {}}
    digest = hashlib.sha256(content).hexdigest().encode()
    files = {f"{split}.jsonl": split.encode() + digest for split in ("train", "validation", "holdout")}
    return files | {"about.json": msgspec.json.encode(about)}


def main() -> int:
    """Do the task as the script says."""
    workspace, script = Workspace(Path(sys.argv[1])), msgspec.json.decode(sys.argv[2], type=Script)
    if script.prints:
        for stream in (sys.stdout, sys.stderr):
            stream.write(script.prints + "x" * script.longest + "\n")
            stream.flush()
    teller = Teller()
    if script.is_deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (workspace.folder / "child.pid").write_text(str(os.getpid()))
    if script.leaves:
        left = subprocess.Popen(["sleep", "600"])
        (workspace.folder / "left.pid").write_text(str(left.pid))
    teller(_outcome(workspace, script, teller))
    return 0


def _outcome(workspace: Workspace, script: Script, teller: Teller) -> Message:
    task = workspace.read_task()
    try:
        if isinstance(task, PrepareTask):
            return Done(_prepare(task, workspace, script, teller))
        assert isinstance(task, TrainTask)
        return Done(_train(task, workspace, script, teller))
    except StoppedAt as stopped:
        return Stopped(stopped.step)
    except JobFailed as failed:
        return Failed(failed.code, failed.message)


def _prepare(task: PrepareTask, workspace: Workspace, script: Script, teller: Teller) -> dict[str, object]:
    teller(Told("8 rows of 8 are good"))
    time.sleep(script.prepare_s)
    _write_bad_rows(workspace, script)
    _misbehave(0, workspace, script)
    files = dataset_files(Path(task.training).read_bytes())
    workspace.dataset.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (workspace.dataset / name).write_bytes(content)
    found: dict[str, object] = msgspec.json.decode(files["about.json"])
    return found


def _write_bad_rows(workspace: Workspace, script: Script) -> None:
    with BadRows(workspace.bad_rows) as bad_rows:
        for line in range(1, script.bad_rows + 1):
            bad_rows.add("training", line, "it is not valid JSON")


def _train(task: TrainTask, workspace: Workspace, script: Script, teller: Teller) -> dict[str, object]:
    assert (workspace.dataset / "train.jsonl").read_bytes().startswith(b"train")
    teller(Told("The model is being loaded"))
    time.sleep(script.load_s)
    first = (task.resume_step or 0) + 1
    if task.resume_step is not None:
        state = workspace.checkpoint(task.resume_step) / "state.json"
        assert msgspec.json.decode(state.read_bytes()) == {"step": task.resume_step}
    for step in range(first, script.steps + 1):
        _misbehave(step, workspace, script)
        time.sleep(script.step_s)
        teller(_step(step, script.steps))
        is_due = step % script.checkpoint_every == 0
        if is_due or teller.stop_asked:
            teller(Evaluated(step, 1.0 / step))
            _save(step, workspace, teller)
        if teller.stop_asked:
            raise StoppedAt(step)
    _write_adapter(task.order.seed + script.salt, workspace)
    return {"tokens": script.steps * TOKENS_A_STEP}


def _misbehave(step: int, workspace: Workspace, script: Script) -> None:
    if step == script.fails_at:
        raise JobFailed(script.fails_with, f"it fails at step {step}")
    if step == script.hangs_at:
        time.sleep(600)
    marker = workspace.folder / "died"
    if step == script.dies_at and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def _step(step: int, total: int) -> Step:
    return Step(
        step=step,
        total=total,
        epoch=step / total,
        loss=1.0 / step,
        learning_rate=1e-4,
        gradient_norm=1.0,
        tokens=step * TOKENS_A_STEP,
        tokens_per_second=1000.0,
        memory_bytes=1 << 20,
        remaining_s=float(total - step),
    )


def _save(step: int, workspace: Workspace, teller: Teller) -> None:
    folder = workspace.checkpoint(step)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_bytes(msgspec.json.encode({"step": step}))
    teller(Saved(step, str(folder), is_best=True, metrics={"train_loss": 1.0 / step}))


def _write_adapter(seed: int, workspace: Workspace) -> None:
    from tests.registry.lora_samples import safetensors_bytes, tensors, write_adapter

    scale = 1.0 + seed  # other seeds, other weights
    values = {name: (value * scale).astype(value.dtype) for name, value in tensors().items()}
    write_adapter(workspace.adapter, weights=safetensors_bytes(values))
    workspace.training_file.write_bytes(b"{}")


if __name__ == "__main__":
    sys.exit(main())
