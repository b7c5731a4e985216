"""Training for real, on the demo's tiny base and the CPU."""

import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from peft import PeftModel
from safetensors.torch import load_file

from demo import ADAPTERS
from registry.lora import check_adapter
from registry.probes import read_probes
from registry.tuning.orders import LoraOrder
from tests.tuner.training.samples import BASE, Ear, order, task, workspace_of, write_split
from tuner.data.tokens import load_tokenizer
from tuner.errors import JobFailed, StoppedAt
from tuner.messages import Evaluated, Saved, Step, Stopped, Told, decode
from tuner.training import auto, fitting, supervised
from tuner.training.begun import Begun
from tuner.training.model import load_model
from tuner.training.plan import Training
from tuner.training.train import train
from tuner.workspace import TrainTask, Workspace

STEPS = 12  # 48 rows in batches of 8, twice
LAYERS = 28  # linear ones of the base, but for the last
FILES = ("adapter_config.json", "adapter_model.safetensors", "probes.json")


@dataclass(frozen=True)
class Run:
    """A training that went through without a stop."""

    workspace: Workspace
    task: TrainTask
    ear: Ear
    result: dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def as_before() -> Iterator[None]:
    """Leave torch as it was."""
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(mode=False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One training that the tests look at."""
    workspace, ear, asked = workspace_of(tmp_path_factory.mktemp("run")), Ear(), task(order())
    return Run(workspace, asked, ear, train(asked, workspace, ear))


def files(workspace: Workspace) -> dict[str, bytes]:
    """The result."""
    return {name: (workspace.adapter / name).read_bytes() for name in FILES}


def another(run: Run, folder: Path, *steps: int) -> Workspace:
    """A workspace on another machine, with the same dataset and some of the checkpoints."""
    workspace = Workspace(folder)
    shutil.copytree(run.workspace.dataset, workspace.dataset)
    for step in steps:
        shutil.copytree(run.workspace.checkpoint(step), workspace.checkpoint(step))
    return workspace


# --- what it makes, and what it tells ----------------------------------------------------------------------------


def test_it_makes_an_adapter_that_the_registry_takes(run: Run) -> None:
    """Config, weights and probes, without this machine's paths."""
    checked = check_adapter(run.workspace.adapter, BASE)
    assert (checked.rank, checked.alpha, checked.dtype) == (16, 32, "F32")
    assert len(checked.target_modules) == 7
    probes = read_probes(run.workspace.adapter, 1536)
    assert probes is not None
    assert len(probes.probes) == 4
    assert str(run.workspace.folder).encode() not in b"".join(files(run.workspace).values())


def test_it_learns(run: Run) -> None:
    """The validation loss falls by more than half."""
    losses = [evaluated.loss for evaluated in run.ear.of(Evaluated)]
    assert losses[-1] < run.ear.of(Step)[0].loss / 2
    assert run.result["validation_loss"] == min(losses)


def test_each_step_is_told(run: Run) -> None:
    """With loss, rate, norm, tokens and time; the rate rises, then falls by a cosine to a tenth."""
    steps = run.ear.of(Step)
    assert [step.step for step in steps] == list(range(1, STEPS + 1))
    assert {step.total for step in steps} == {STEPS}
    assert steps[-1].epoch == 2
    rates = [step.learning_rate for step in steps]
    peak = Training.read(run.workspace.training_file).plan.learning_rate
    assert max(rates) == pytest.approx(peak)
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] == pytest.approx(0.1 * peak, rel=0.2)
    for step in steps:
        assert step.loss > 0
        assert step.gradient_norm is not None
        assert step.gradient_norm > 0
        assert step.tokens_per_second > 0
        assert step.memory_bytes > 100 << 20
        assert step.token_accuracy is not None
        assert 0 < step.token_accuracy <= 1
    assert steps[0].remaining_s > steps[-1].remaining_s == 0


def test_tokens_are_counted_without_padding(run: Run) -> None:
    """Both epochs' tokens, as the tokenizer makes them of the rows."""
    splits = supervised.read_splits(
        run.workspace.dataset, run.workspace.folder / "again", load_tokenizer(run.task.base_model)
    )
    tokens = 2 * sum(splits.train["length"])
    assert run.ear.of(Step)[-1].tokens == run.result["tokens"] == tokens


def test_evaluations_each_have_a_checkpoint(run: Run) -> None:
    """Twice in an epoch; the best is marked, and its loss goes with it."""
    saved = run.ear.of(Saved)
    assert [each.step for each in saved] == [each.step for each in run.ear.of(Evaluated)] == [3, 6, 9, 12]
    losses = [each.metrics["full_valid_loss"] for each in saved]
    best = [each.step for each in saved if each.is_best]
    assert best[-1] == saved[losses.index(min(losses))].step == run.result["best_step"]
    for each in saved:
        assert each.folder == str(run.workspace.checkpoint(each.step))
        assert each.metrics.keys() == {"train_loss", "full_valid_loss", "full_valid_mean_token_accuracy"}


def test_the_result_is_the_best_checkpoint(run: Run) -> None:
    """Its weights, to the bit."""
    best = load_file(run.workspace.checkpoint(run.result["best_step"]) / "adapter_model.safetensors")
    result = load_file(run.workspace.adapter / "adapter_model.safetensors")
    assert best.keys() == result.keys()
    assert all(torch.equal(best[name], result[name]) for name in best)


def test_the_record_says_how_it_was_made(run: Run) -> None:
    """The plan with a value for everything, and what was measured."""
    record = Training.read(run.workspace.training_file)
    assert (record.plan.steps, record.plan.batch_size, record.plan.epochs) == (STEPS, 8, 2)
    assert record.measured is not None
    assert record.measured.device_name == "cpu"
    assert record.measured.peak_memory_bytes > 0


# --- the same bytes, whatever happens ----------------------------------------------------------------------------


def child(workspace: Workspace) -> subprocess.Popen[bytes]:
    """The real child process on the task in a workspace."""
    command = [sys.executable, "-m", "tuner.child", str(workspace.folder)]
    environment = os.environ | {"PYTHONHASHSEED": "3", "OMP_WAIT_POLICY": "PASSIVE"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment, process_group=0
    )


def test_the_same_job_in_two_processes_with_a_stop_between_gives_the_same_bytes(run: Run, tmp_path: Path) -> None:
    """SIGTERM stops a child after its step with a checkpoint; another child elsewhere ends as if nothing had been."""
    first = another(run, tmp_path / "first")
    first.write_task(run.task)
    process = child(first)
    assert process.stdout is not None
    heard = []
    for line in process.stdout:
        heard.append(decode(line))
        if isinstance(heard[-1], Step) and heard[-1].step == 7:
            process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    stopped = heard[-1]
    assert isinstance(stopped, Stopped)
    assert 7 < stopped.step < STEPS
    assert first.checkpoint(stopped.step).is_dir()

    second = another(run, tmp_path / "second")
    shutil.copytree(first.checkpoint(stopped.step), second.checkpoint(stopped.step))
    shutil.copytree(first.checkpoint(6), second.checkpoint(6))  # the best so far, as the worker keeps it
    ear = Ear()
    result = train(task(run.task.order, resume_step=stopped.step, best_step=6), second, ear)
    assert [step.step for step in ear.of(Step)] == list(range(stopped.step + 1, STEPS + 1))
    assert files(second) == files(run.workspace)
    assert result["tokens"] == run.result["tokens"]


def test_it_stops_after_the_step_at_which_it_is_asked(run: Run, tmp_path: Path) -> None:
    """With a checkpoint of that very step."""
    workspace, ear = another(run, tmp_path), Ear(stop_after=2)
    with pytest.raises(StoppedAt) as caught:
        train(run.task, workspace, ear)
    assert caught.value.step == 2
    assert (ear.last_saved.step, ear.last_saved.is_best) == (2, False)


def test_it_does_not_begin_when_asked_to_stop_before(run: Run, tmp_path: Path) -> None:
    """Nothing is trained, and the step is that of the checkpoint."""
    workspace, ear = another(run, tmp_path, 6), Ear(stop_asked=True)
    with pytest.raises(StoppedAt) as caught:
        train(task(run.task.order, resume_step=6, best_step=6), workspace, ear)
    assert caught.value.step == 6
    assert ear.of(Step) == []


def test_what_had_ended_is_not_trained_again(run: Run, tmp_path: Path) -> None:
    """A child that died after its last checkpoint only has to write the result."""
    best = run.result["best_step"]
    workspace, ear = another(run, tmp_path, *{STEPS, best}), Ear()
    result = train(task(run.task.order, resume_step=STEPS, best_step=best), workspace, ear)
    assert ear.of(Step) == []
    assert files(workspace) == files(run.workspace)
    assert result["best_step"] == best


def test_what_lies_there_of_no_checkpoint_of_the_jobs_is_thrown_away(run: Run, tmp_path: Path) -> None:
    """A task without a checkpoint begins anew."""
    workspace, ear = another(run, tmp_path, 9), Ear(stop_after=2)
    with pytest.raises(StoppedAt):
        train(run.task, workspace, ear)
    assert [path.name for path in workspace.checkpoints.iterdir()] == ["checkpoint-2"]


# --- what a checkpoint knows of its training ---------------------------------------------------------------------


def begun(workspace: Workspace, step: int, **changes: Any) -> Begun:
    """What a checkpoint says of its training, once it is changed."""
    found = msgspec.structs.replace(Begun.read(workspace.checkpoint(step)), **changes)
    found.write(workspace.checkpoint(step))
    return found


def test_the_plan_that_training_began_with_is_held_to(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever resumes under other rules does as if they were the old ones, to the bit."""
    monkeypatch.setattr(auto, "learning_rate", lambda _width: 1.0)
    monkeypatch.setattr(auto, "warmup_steps", lambda _steps: 5)
    workspace, ear = another(run, tmp_path, 6), Ear()
    train(task(run.task.order, resume_step=6, best_step=6), workspace, ear)
    assert Training.read(workspace.training_file).plan == Training.read(run.workspace.training_file).plan
    assert files(workspace) == files(run.workspace)
    assert warnings(ear) == []


def test_what_a_machine_cannot_keep_of_a_plan_is_told(run: Run, tmp_path: Path) -> None:
    """A training from a GPU goes on here in float32; the rest of its plan stays, its steps among it."""
    workspace, ear = another(run, tmp_path, 6), Ear()
    there = Begun.read(workspace.checkpoint(6)).plan
    there = msgspec.structs.replace(there, device="cuda", dtype="bfloat16", gradient_checkpointing=True, steps=8)
    begun(workspace, 6, plan=there)
    result = train(task(run.task.order, resume_step=6, best_step=6), workspace, ear)
    here = Training.read(workspace.training_file).plan
    assert (here.device, here.dtype, here.gradient_checkpointing) == ("cpu", "float32", False)
    assert (here.learning_rate, here.warmup_steps, here.batch_size) == (there.learning_rate, 1, 8)
    assert [step.step for step in ear.of(Step)] == [7, 8]
    assert result["steps"] == here.steps == 8
    (told,) = warnings(ear)
    assert "dtype float32 in place of bfloat16" in told
    assert "device cpu in place of cuda" in told


@pytest.mark.parametrize("step", [6, STEPS])
def test_seconds_are_those_of_every_process(run: Run, tmp_path: Path, step: int) -> None:
    """What was trained before the checkpoint counts, also where only the result was left to write."""
    best = run.result["best_step"]
    workspace = another(run, tmp_path, *{step, best})
    assert 0 < Begun.read(workspace.checkpoint(step)).seconds <= run.result["seconds"]
    begun(workspace, step, seconds=5000.0, gpu_seconds=700.0)
    result = train(task(run.task.order, resume_step=step, best_step=best), workspace, Ear())
    assert 5000.0 <= result["seconds"] < 5000.0 + 600
    assert result["gpu_seconds"] == 700.0  # none here
    if step < STEPS:
        assert result["seconds"] > Begun.read(workspace.checkpoint(9)).seconds > 5000.0


# --- memory ------------------------------------------------------------------------------------------------------


def short_of_memory(monkeypatch: pytest.MonkeyPatch, fits: int, from_call: int = 0) -> None:
    """Have every forward pass fail that has more rows than fit, from some call on."""
    calls = 0

    def load(*args: Any) -> PeftModel:
        model = load_model(*args)
        forward = model.forward

        def limited(*args: Any, **inputs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > from_call and len(inputs["input_ids"]) > fits:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
            return forward(*args, **inputs)

        model.forward = limited
        return model

    monkeypatch.setattr(fitting, "load_model", load)


def warnings(ear: Ear) -> list[str]:
    """What was told as a warning."""
    return [told.message for told in ear.of(Told) if told.level == "warn"]


def test_a_batch_that_does_not_fit_goes_through_in_parts(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halved until it fits; steps, rows of a step and, but for rounding, losses stay the same."""
    short_of_memory(monkeypatch, fits=2)
    workspace, ear = another(run, tmp_path), Ear()
    result = train(run.task, workspace, ear)
    assert result["rows_at_once"] == 2
    assert [message.partition(" rows go")[0].rpartition("on, ")[2] for message in warnings(ear)] == [
        "4 of its 8",
        "2 of its 8",
    ]
    for alike, step in zip(run.ear.of(Step), ear.of(Step), strict=True):
        assert step.loss == pytest.approx(alike.loss, rel=1e-4)
        assert step.tokens == alike.tokens
    assert result["validation_loss"] == pytest.approx(run.result["validation_loss"], rel=1e-3)


def test_memory_that_runs_short_later_costs_no_more_than_a_checkpoint(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on from the newest one with smaller parts, which a resumed job begins with."""
    short_of_memory(monkeypatch, fits=4, from_call=10)  # 3 steps, 2 evaluations, 3 steps, 2 evaluations
    workspace, ear = another(run, tmp_path), Ear(stop_after=9)
    with pytest.raises(StoppedAt):
        train(run.task, workspace, ear)
    assert [step.step for step in ear.of(Step)] == list(range(1, 10))
    assert len(warnings(ear)) == 1
    assert "from step 7 on" in warnings(ear)[0]
    best = [saved.step for saved in ear.of(Saved) if saved.is_best][-1]
    ear = Ear()
    result = train(task(run.task.order, resume_step=9, best_step=best), workspace, ear)
    assert warnings(ear) == []
    assert result["rows_at_once"] == 4
    assert result["validation_loss"] == pytest.approx(run.result["validation_loss"], rel=1e-3)


def test_a_row_that_does_not_fit_alone_fails_the_job(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what could be lowered."""
    short_of_memory(monkeypatch, fits=0)
    with pytest.raises(JobFailed, match="longest rows") as caught:
        train(run.task, another(run, tmp_path), Ear())
    assert caught.value.code == "out_of_memory"


@pytest.mark.parametrize("place", [(fitting, "load_model"), (supervised, "make_trainer")])
def test_a_base_that_does_not_fit_fails_the_job(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: tuple[ModuleType, str]
) -> None:
    """Smaller batches would not help, so none are tried; on a GPU it shows when a trainer puts the model there."""

    def full(*_args: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(*place, full)
    ear = Ear()
    with pytest.raises(JobFailed, match="base model does not fit") as caught:
        train(run.task, another(run, tmp_path), ear)
    assert caught.value.code == "out_of_memory"
    assert warnings(ear) == []


# --- ends that are not the plan's ---------------------------------------------------------------------------------


def test_training_ends_early_when_patience_does(run: Run, tmp_path: Path) -> None:
    """Evaluations without the asked-for improvement count; the best of them is the result, also after a resume."""
    asked = task(order(patience=1, least_change=10.0))
    workspace, ear = another(run, tmp_path / "first"), Ear()
    result = train(asked, workspace, ear)
    assert result["steps"] == 6
    assert any("ended early at step 6 of 12" in told.message for told in ear.of(Told))
    assert result["validation_loss"] == min(evaluated.loss for evaluated in ear.of(Evaluated))
    ear = Ear()
    train(task(asked.order, resume_step=6, best_step=result["best_step"]), workspace, ear)
    assert ear.of(Step) == []


def test_patience_is_remembered_over_a_stop(run: Run, tmp_path: Path) -> None:
    """Whoever resumes goes on counting where the one before stopped."""
    asked = order(patience=2, least_change=10.0)
    workspace = another(run, tmp_path)
    with pytest.raises(StoppedAt):
        train(task(asked), workspace, Ear(stop_after=7))  # one evaluation without improvement so far
    result = train(task(asked, resume_step=7, best_step=6), workspace, Ear())
    assert result["steps"] == 9


def test_without_a_validation_split_the_last_step_is_the_result(run: Run, tmp_path: Path) -> None:
    """It is told, and checkpoints are made all the same."""
    workspace, ear = another(run, tmp_path), Ear()
    write_split(workspace, "validation", [])
    result = train(task(order(epochs=1, patience=1)), workspace, ear)
    assert result["validation_loss"] is None
    assert result["best_step"] == result["steps"] == 6
    assert ear.of(Evaluated) == []
    assert all(saved.is_best for saved in ear.of(Saved))
    assert any("no validation split" in told.message for told in ear.of(Told))


def test_a_loss_that_is_no_number_fails_the_job(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the step at which it happens, with what to lower, and without a checkpoint of it."""

    def load(*args: Any) -> PeftModel:
        model = load_model(*args)
        parameter = next(parameter for parameter in model.parameters() if parameter.requires_grad)
        parameter.data.fill_(math.inf)
        return model

    monkeypatch.setattr(fitting, "load_model", load)
    workspace, ear = another(run, tmp_path), Ear()
    with pytest.raises(JobFailed, match=r"of step 1 is not a finite number.*learning_rate_multiplier") as caught:
        train(run.task, workspace, ear)
    assert caught.value.code == "training_failed"
    assert ear.of(Saved) == []


# --- kinds of LoRA ------------------------------------------------------------------------------------------------


def test_training_goes_on_from_a_version(tmp_path: Path) -> None:
    """It begins with that version's loss, far below the base's, and keeps its shape."""
    workspace, ear = workspace_of(tmp_path), Ear(stop_after=2)
    shipped = ADAPTERS[1].folder
    with pytest.raises(StoppedAt):
        train(task(order(start_from=2, multiplier=0.1), start_from=str(shipped)), workspace, ear)
    assert ear.of(Step)[0].loss < 0.2
    saved = load_file(workspace.checkpoint(2) / "adapter_model.safetensors")
    before = load_file(shipped / "adapter_model.safetensors")
    assert saved.keys() == before.keys()
    assert all(torch.allclose(saved[name], before[name], atol=0.01) for name in saved)


def test_another_rank_than_the_versions_is_refused(tmp_path: Path) -> None:
    """Before anything is trained."""
    asked = task(order(start_from=2, lora=LoraOrder(rank=8)), start_from=str(ADAPTERS[1].folder))
    with pytest.raises(JobFailed, match="rank"):
        train(asked, workspace_of(tmp_path), Ear())


def test_rslora_on_chosen_modules(tmp_path: Path) -> None:
    """The config says so, and only these modules are changed."""
    workspace = workspace_of(tmp_path, rows=16, validation=0)
    train(task(order(epochs=1, lora=LoraOrder(rank=4, rslora=True, targets=["q_proj", "v_proj"]))), workspace, Ear())
    checked = check_adapter(workspace.adapter, BASE)
    assert (checked.rank, checked.alpha, checked.use_rslora) == (4, 4, True)
    assert checked.target_modules == ("q_proj", "v_proj")


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[PeftModel]:
    """The models that are trained from now on."""
    found: list[PeftModel] = []

    def load(*args: Any) -> PeftModel:
        found.append(load_model(*args))
        return found[-1]

    monkeypatch.setattr(fitting, "load_model", load)
    return found


def test_nf4_learns_as_well_as_an_unquantized_base(run: Run, tmp_path: Path, models: list[PeftModel]) -> None:
    """The frozen layers really are 4-bit NormalFloat with quantized scales; what is trained is float32."""
    workspace, ear = another(run, tmp_path), Ear()
    result = train(task(order(lora=LoraOrder(quantization="nf4"))), workspace, ear)
    layers = [module for module in models[0].modules() if isinstance(module, Linear4bit)]
    assert len(layers) == LAYERS
    for layer in layers:
        weight: Any = layer.weight
        assert (weight.quant_state.quant_type, weight.quant_state.nested, weight.dtype) == ("nf4", True, torch.uint8)
    assert {parameter.dtype for parameter in models[0].parameters() if parameter.requires_grad} == {torch.float32}
    assert result["validation_loss"] == pytest.approx(run.result["validation_loss"], rel=0.15)
    assert check_adapter(workspace.adapter, BASE).dtype == "F32"


def test_an_int8_base_is_trained_on(run: Run, tmp_path: Path, models: list[PeftModel]) -> None:
    """The frozen layers really are 8-bit integers, and the losses are those of the unquantized base, nearly."""
    workspace, ear = another(run, tmp_path), Ear(stop_after=3)
    with pytest.raises(StoppedAt):
        train(task(order(lora=LoraOrder(quantization="int8"))), workspace, ear)
    layers = [module for module in models[0].modules() if isinstance(module, Linear8bitLt)]
    assert len(layers) == LAYERS
    assert {layer.weight.dtype for layer in layers} == {torch.int8}
    assert {parameter.dtype for parameter in models[0].parameters() if parameter.requires_grad} == {torch.float32}
    for alike, step in zip(run.ear.of(Step)[:3], ear.of(Step), strict=True):
        assert step.loss == pytest.approx(alike.loss, rel=0.1)
