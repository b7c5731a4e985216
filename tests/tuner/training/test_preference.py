"""Training on preferences, with the demo's base model and its first version."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from tests.tuner.training.preferences import pairs, share, write_dataset
from tests.tuner.training.samples import Ear, order, task
from tests.tuner.works import BASE_MODEL
from tuner.errors import StoppedAt
from tuner.messages import Evaluated, Saved, Step
from tuner.training.begun import Begun, Clock
from tuner.training.callbacks import Reporter
from tuner.training.fitting import Fitting
from tuner.training.machine import set_up
from tuner.training.plan import Circumstances, Training, make_plan, read_shape
from tuner.training.preference import conversations, make_trainer, read_splits
from tuner.training.train import train
from tuner.workspace import TrainTask, Workspace

SUPPORT_1 = BASE_MODEL.parent / "adapters" / "support" / "1"
TRAIN, VALIDATION, HOLDOUT = pairs(128, 1), pairs(8, 2), pairs(24, 3)
ORDER = order(epochs=1, batch=8, multiplier=10.0, method="dpo", start_from=1)


def _workspace(folder: Path) -> Workspace:
    workspace = Workspace(folder)
    write_dataset(workspace.dataset, train=TRAIN, validation=VALIDATION, holdout=HOLDOUT)
    return workspace


def _task(start: Path | None = SUPPORT_1, resume: int | None = None) -> TrainTask:
    return task(ORDER, start_from=None if start is None else str(start), resume_step=resume, threads=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Ear]:
    """A version that went on from the first one, on preferences."""
    workspace, ear = _workspace(tmp_path_factory.mktemp("dpo")), Ear()
    train(_task(), workspace, ear)
    return workspace, ear


def test_the_preferred_answers_become_likelier(trained: tuple[Workspace, Ear]) -> None:
    """On prompts that were held out the margin grows, more pairs are ranked right, and more answers are preferred."""
    workspace, _ = trained
    before, after = share(HOLDOUT, SUPPORT_1), share(HOLDOUT, workspace.adapter)
    print(f"before {before}, after {after}")
    assert after.margin > before.margin + 0.2
    assert before.likelier < 0.85
    assert after.likelier > 0.95
    assert after.answered > before.answered + 0.1


def test_steps_tell_the_rewards(trained: tuple[Workspace, Ear]) -> None:
    """Each step has DPO's rewards beside its loss, which begins at log 2 as nothing differs from the reference yet."""
    _, ear = trained
    first, *_, last = steps = ear.of(Step)
    assert len(steps) == 16
    assert first.extra.keys() == {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"}
    assert first.loss == pytest.approx(math.log(2), abs=1e-3)
    assert last.extra["rewards/margins"] > first.extra["rewards/margins"]
    assert ear.of(Evaluated)


def test_the_plan_has_beta(trained: tuple[Workspace, Ear]) -> None:
    """What was "auto" is in the lineage: beta, and the shape of the version that it went on from."""
    workspace, _ = trained
    plan = Training.read(workspace.training_file).plan
    assert (plan.method, plan.beta, plan.lora) == ("dpo", 0.1, read_shape(SUPPORT_1))


def test_a_checkpoint_holds_the_adapter_alone(trained: tuple[Workspace, Ear]) -> None:
    """The frozen reference is made anew from what training started from, and is in no checkpoint and no result."""
    workspace, ear = trained
    for saved in ear.of(Saved):
        assert not [path for path in Path(saved.folder).iterdir() if path.is_dir()]
    assert {path.name for path in workspace.adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "probes.json",
    }


def test_a_stopped_training_goes_on_to_the_same_bytes(tmp_path: Path, trained: tuple[Workspace, Ear]) -> None:
    """Resumed in its middle it ends with the same weights: the reference stays the version that it started from."""
    workspace = _workspace(tmp_path)
    with pytest.raises(StoppedAt) as stopped:
        train(_task(), workspace, Ear(stop_after=7))
    assert stopped.value.step == 7
    train(_task(resume=7), workspace, Ear())
    name = "adapter_model.safetensors"
    assert (workspace.adapter / name).read_bytes() == (trained[0].adapter / name).read_bytes()


@pytest.mark.parametrize("start", [SUPPORT_1, None])
def test_the_reference_is_what_training_starts_from(tmp_path: Path, start: Path | None) -> None:
    """With a version to go on from its answers are the reference, not the bare base's; without one, the base's are."""
    workspace, ear, wanted = _workspace(tmp_path), Ear(), _task(start)
    machine, tokenizer = set_up(wanted), AutoTokenizer.from_pretrained(BASE_MODEL)
    splits = read_splits(workspace.dataset, workspace.tables, tokenizer)
    shape = None if start is None else read_shape(start)
    plan = make_plan(ORDER, Circumstances(len(splits.train), len(VALIDATION), 192, shape, "cpu", "float32"))
    clock = Clock(Begun(plan))
    fitting = Fitting(wanted, clock, machine, tokenizer, splits, workspace, ear, make_trainer)
    trainer = fitting._trainer(Reporter(ear, clock, 4), 4)
    model = trainer.model
    batch = trainer.data_collator([splits.train[at] for at in range(4)])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".default." in name:
                parameter.mul_(1.5).add_(0.01)  # as if it had been trained
        reference, _ = trainer.compute_ref_log_probs(model, batch)
    expected = _logprobs_of(start, batch)
    assert torch.allclose(reference, expected, atol=1e-3)
    assert not torch.allclose(reference, _logprobs_of(None if start else SUPPORT_1, batch), atol=1e-1)


def _logprobs_of(adapter: Path | None, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of the better answers, with an adapter or from the base alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(BASE_MODEL, dtype=torch.float32).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter)).eval()
    ids, mask = batch["input_ids"], batch["completion_mask"]
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=batch["attention_mask"]).logits[:, :-1]
    logprobs = torch.log_softmax(logits, dim=-1).gather(-1, ids[:, 1:, None])[..., 0]
    return (logprobs * mask[:, 1:]).sum(dim=1).chunk(2)[0]


def test_probes_end_in_the_better_answer(tmp_path: Path) -> None:
    """Probes are of what is wanted, not of what is to be avoided."""
    tokenizer = AutoTokenizer.from_pretrained(BASE_MODEL)
    write_dataset(tmp_path, holdout=HOLDOUT)
    found = list(conversations(tmp_path / "holdout.jsonl", tokenizer))
    answers = [tokenizer.decode(each.tokens[each.answer :], skip_special_tokens=True) for each in found]
    assert answers == [pair.preferred for pair in HOLDOUT]
