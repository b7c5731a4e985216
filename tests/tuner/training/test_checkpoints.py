"""Which checkpoints there are, and what they hold."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tuner.training.samples import planned
from tuner.errors import JobFailed
from tuner.training.checkpoints import is_last, newest, require_usable, strip


def checkpoint(root: Path, step: int, **state: Any) -> Path:
    """A checkpoint with its state alone."""
    folder = root / f"checkpoint-{step}"
    folder.mkdir()
    usual = {"global_step": step, "stateful_callbacks": {}}
    (folder / "trainer_state.json").write_text(json.dumps(usual | state))
    return folder


def patience(used: int) -> dict[str, Any]:
    """The state of early stopping, as transformers writes it."""
    return {"EarlyStoppingCallback": {"args": {}, "attributes": {"early_stopping_patience_counter": used}}}


def test_the_newest_is_that_of_the_last_step(tmp_path: Path) -> None:
    """By number, not by name."""
    for step in (9, 100, 20):
        checkpoint(tmp_path, step)
    assert newest(tmp_path) == tmp_path / "checkpoint-100"


def test_a_checkpoint_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    """The state is written last."""
    checkpoint(tmp_path, 1)
    (tmp_path / "checkpoint-2").mkdir()
    assert newest(tmp_path) == tmp_path / "checkpoint-1"


def test_there_may_be_none(tmp_path: Path) -> None:
    """Nor a folder for them."""
    assert newest(tmp_path / "none") is None


def test_only_what_is_needed_to_go_on_stays(tmp_path: Path) -> None:
    """Tokenizers, cards and pickled arguments, which hold paths, go."""
    kept = {"adapter_config.json", "adapter_model.safetensors", "optimizer.pt", "rng_state.pth"}
    kept |= {"trainer_state.json", "begun.json"}
    for name in (*kept, "README.md", "tokenizer.json", "training_args.bin"):
        (tmp_path / name).touch()
    (tmp_path / "ref").mkdir()
    strip(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize(
    ("step", "callbacks", "last"),
    [(5, {}, False), (189, {}, True), (5, patience(2), False), (5, patience(3), True)],
)
def test_a_training_that_has_ended_is_known_by_its_checkpoint(
    tmp_path: Path,
    step: int,
    callbacks: dict[str, Any],
    last: bool,
) -> None:
    """By its steps, or because its patience was at an end."""
    folder = checkpoint(tmp_path, step, stateful_callbacks=callbacks)
    plan = planned()
    assert (plan.steps, plan.patience) == (189, 3)
    assert is_last(folder, plan) is last


@pytest.mark.parametrize(("optimizer", "processes"), [("optimizer.pt", 1), ("optimizer.bin", 4)])
def test_a_checkpoint_goes_on_where_the_model_is_held_alike(tmp_path: Path, optimizer: str, processes: int) -> None:
    """Several GPUs share out the optimizer, which one cannot read, nor they what one wrote; CPUs do not share."""
    (tmp_path / optimizer).touch()
    require_usable(tmp_path, planned(processes=processes))
    with pytest.raises(JobFailed, match=r"one device.*ask for the job again"):
        require_usable(tmp_path, planned(processes=5 - processes))


def test_several_processes_on_a_cpu_share_nothing(tmp_path: Path) -> None:
    """What one wrote, they read."""
    (tmp_path / "optimizer.pt").touch()
    require_usable(tmp_path, planned(device="cpu", dtype="float32", processes=2))
