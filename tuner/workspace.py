"""A job's folder on this machine: what a stage leaves for the next one, and what can be thrown away at any time.

Whatever another machine would need to go on is in the artifact store; this folder only saves fetching it.

<cache>/tuner/<job>/    (of the second of several machines: <job>.1/)
    task.json           what the child shall do, a `Task`
    dataset/            the frozen dataset: train.jsonl, validation.jsonl, holdout.jsonl, about.json
    bad_rows.jsonl      the uploaded rows that cannot be used, each with its reason
    tables/             its rows as tokens
    checkpoints/        the trainer's own, `checkpoint-<step>/`
    adapter/            the result: adapter_config.json, adapter_model.safetensors, probes.json
    fetched/            what it needs of a remote store, by digest: uploads, datasets, the adapter to go on from
    training.json       how it was trained: a `tuner.training.plan.Plan` and what the training measured
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from registry.tuning.orders import TuningOrder


class PrepareTask(msgspec.Struct, frozen=True, tag="prepare"):
    """Make a dataset of uploaded files.

    Attributes:
        training, validation: the uploaded files.
        ancestors: the folders of the datasets that this one comes after, by their digests: what was held out or trained
            on there decides what can be held out here.
        parents: the digests of those that it follows directly.
        replayed: the digest of the one whose rows are mixed in; None replays nothing.
        tokenizer: the folder of the base model's tokenizer.
        context: tokens that the engine takes at most; 0 where nobody knows.
    """

    order: TuningOrder
    training: str
    validation: str | None
    tokenizer: str
    context: int
    ancestors: dict[str, str] = {}
    parents: tuple[str, ...] = ()
    replayed: str | None = None


class CheckTask(msgspec.Struct, frozen=True, tag="check"):
    """Find out what the adapter will be, without training it.

    The result has its `rank`, under `targets` the modules that it changes, and under `prompts` some conversations with
    the token ids that training makes of them.
    """

    order: TuningOrder
    base_model: str
    start_from: str | None


class TrainTask(msgspec.Struct, frozen=True, tag="train"):
    """Make an adapter of a dataset.

    Attributes:
        base_model: its folder or Hugging Face id.
        start_from: the folder of the adapter to go on from.
        resume_step: the checkpoint to go on from, which lies in `checkpoints/`; None begins anew.
        best_step: the best checkpoint so far, which lies there, too.
        device: ``cpu`` or ``cuda``; "auto" takes a GPU where there is one.
        memory_share: of the GPU's memory that may be used; None is all of it.
        threads: of the CPU; None is torch's own choice.
        context: tokens that the engine takes at most; 0 where nobody knows.
    """

    order: TuningOrder
    base_model: str
    start_from: str | None
    resume_step: int | None = None
    best_step: int | None = None
    device: str = "auto"
    memory_share: float | None = None
    threads: int | None = None
    context: int = 0


Task = PrepareTask | CheckTask | TrainTask


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder of one job."""

    folder: Path

    @property
    def task_file(self) -> Path:
        """What the child shall do."""
        return self.folder / "task.json"

    @property
    def dataset(self) -> Path:
        """The frozen dataset."""
        return self.folder / "dataset"

    @property
    def bad_rows(self) -> Path:
        """The uploaded rows that cannot be used."""
        return self.folder / "bad_rows.jsonl"

    @property
    def tables(self) -> Path:
        """The dataset's rows as tokens."""
        return self.folder / "tables"

    @property
    def checkpoints(self) -> Path:
        """The trainer's checkpoints."""
        return self.folder / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The result."""
        return self.folder / "adapter"

    @property
    def fetched(self) -> Path:
        """Copies of a remote store's artifacts."""
        return self.folder / "fetched"

    @property
    def training_file(self) -> Path:
        """How it was trained."""
        return self.folder / "training.json"

    def checkpoint(self, step: int) -> Path:
        """The folder of one checkpoint, named as transformers names it."""
        return self.checkpoints / f"checkpoint-{step}"

    def drop_checkpoints(self, before: int, keep: int | None) -> None:
        """Throw away the checkpoints before a step that is kept elsewhere by now, but for one (the best).

        The trainer itself throws none away, as somebody may still be reading it.
        """
        for folder in self.checkpoints.glob("checkpoint-*"):
            step = int(folder.name.rpartition("-")[2])
            if step < before and step != keep:
                shutil.rmtree(folder, ignore_errors=True)

    def make(self) -> None:
        """Have the folder; it holds what users said, so nobody else may look into it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)

    def write_task(self, task: Task) -> None:
        """Leave the child its task."""
        self.make()
        self.task_file.write_bytes(msgspec.json.encode(task))

    def read_task(self) -> Task:
        """The child's task."""
        task: Task = msgspec.json.decode(self.task_file.read_bytes(), type=Task)
        return task

    def remove(self) -> None:
        """Throw it away."""
        shutil.rmtree(self.folder, ignore_errors=True)
