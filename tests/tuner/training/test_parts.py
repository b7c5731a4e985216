"""What is learned, and what is measured on the way, does not depend on how many rows go through at once."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from registry.tuning.orders import TuningOrder
from tests.tuner.training.preferences import Pair, pairs, write_dataset
from tests.tuner.training.samples import Ear, order, task, workspace_of
from tests.tuner.works import BASE_MODEL
from tuner.data.tokens import IGNORED, load_tokenizer
from tuner.messages import Evaluated, Step
from tuner.training.begun import Begun, Clock
from tuner.training.callbacks import Reporter
from tuner.training.fitting import Fitting
from tuner.training.machine import set_up
from tuner.training.methods import method_of
from tuner.training.plan import Circumstances, make_plan
from tuner.training.tables import Splits
from tuner.workspace import Workspace

LENGTHS = (1, 20, 2, 3, 30, 1, 5, 40, 2, 1, 15, 4, 1)
"""Words of the answers: thirteen, so that the last batch is a short one."""


@pytest.fixture(scope="module", autouse=True)
def as_before() -> Iterator[None]:
    """Leave torch as it was."""
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(mode=False)
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Bench:
    """What a trainer of any number of rows at once is made of."""

    workspace: Workspace
    order: TuningOrder
    start_from: Path | None = None

    @property
    def splits(self) -> Splits:
        """The rows as tokens."""
        method = method_of(self.order.method)
        return method.read_splits(self.workspace.dataset, self.workspace.tables, load_tokenizer(str(BASE_MODEL)))

    def trainer(self, rows_at_once: int, ear: Ear) -> Any:
        """A trainer that nothing was done with."""
        start = None if self.start_from is None else str(self.start_from)
        wanted, splits = task(self.order, start_from=start), self.splits
        machine = set_up(wanted)
        given = Circumstances(len(splits.train), len(splits.validation or ()), 192, None, "cpu", "float32")
        clock = Clock(Begun(make_plan(self.order, given)))
        tokenizer = load_tokenizer(str(BASE_MODEL))
        make_trainer = method_of(self.order.method).make_trainer
        fitting = Fitting(wanted, clock, machine, tokenizer, splits, self.workspace, ear, make_trainer)
        return fitting._trainer(Reporter(ear, clock, rows_at_once), rows_at_once)


def write_mixed(workspace: Workspace, name: str) -> None:
    """A split whose answers are of very different length."""
    rows = (
        [{"role": "user", "content": f"Count to {n}"}, {"role": "assistant", "content": " ".join(["one"] * n)}]
        for n in LENGTHS
    )
    lines = [json.dumps({"messages": row}) + "\n" for row in rows]
    (workspace.dataset / f"{name}.jsonl").write_text("".join(lines))


def token_means(rows: Any) -> tuple[float, float]:
    """Loss and accuracy over all learned tokens of some rows, of the bare base, a row at a time."""
    model: Any = AutoModelForCausalLM.from_pretrained(BASE_MODEL, dtype=torch.float32).eval()
    losses, right = [], []
    for row in rows:
        ids, labels = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])[1:]
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, :-1]
        learned = labels != IGNORED
        losses.append(torch.nn.functional.cross_entropy(logits[learned], labels[learned], reduction="none"))
        right.append(logits[learned].argmax(dim=-1) == labels[learned])
    return torch.cat(losses).mean().item(), torch.cat(right).float().mean().item()


@pytest.mark.parametrize("rows_at_once", [8, 4, 1])
def test_the_validation_loss_is_a_mean_over_tokens(tmp_path: Path, rows_at_once: int) -> None:
    """Rows of very different length count by their tokens, as does the accuracy, however many go through at once."""
    bench = Bench(workspace_of(tmp_path, rows=8, validation=0, holdout=0), order(batch=8))
    write_mixed(bench.workspace, "validation")
    ear = Ear()
    bench.trainer(rows_at_once, ear).evaluate()
    loss, accuracy = token_means(bench.splits.validation)
    (evaluated,) = ear.of(Evaluated)
    assert evaluated.loss == pytest.approx(loss, rel=1e-4)
    assert evaluated.token_accuracy == pytest.approx(accuracy, abs=1e-6)


def steps_of(bench: Bench, rows_at_once: int) -> tuple[list[Step], list[Evaluated]]:
    """What a training with so many rows at once tells."""
    ear = Ear()
    bench.trainer(rows_at_once, ear).train()
    return ear.of(Step), ear.of(Evaluated)


def assert_alike(bench: Bench, rows_at_once: int) -> None:
    """A training in parts has the losses and gradients of a whole one, and the same validation losses."""
    steps, evaluations = steps_of(bench, 8)
    others, evaluated = steps_of(bench, rows_at_once)
    assert [each.loss for each in others] == pytest.approx([each.loss for each in steps], rel=1e-4)
    norms = [each.gradient_norm for each in others]
    assert norms == pytest.approx([each.gradient_norm for each in steps], rel=1e-3)
    assert [each.loss for each in evaluated] == pytest.approx([each.loss for each in evaluations], rel=1e-4)


def test_supervised_steps_are_the_same_in_parts(tmp_path: Path) -> None:
    """Of thirteen rows of very different length, batches of eight and of five, whole and in parts."""
    bench = Bench(workspace_of(tmp_path, rows=8, validation=8, holdout=0), order(batch=8, epochs=2))
    write_mixed(bench.workspace, "train")
    write_mixed(bench.workspace, "validation")
    assert_alike(bench, 2)


def longer(pair: Pair, times: int) -> Pair:
    """A pair whose answers say the same several times."""
    return Pair(pair.prompt, pair.preferred * times, pair.other * times)


def test_preference_steps_are_the_same_in_parts(tmp_path: Path) -> None:
    """Of fourteen pairs, the last six of an epoch go through as four and two, of which each pair weighs the same."""
    asked = order(batch=8, epochs=2, multiplier=40.0, checkpoints=1, method="dpo")
    bench = Bench(Workspace(tmp_path), asked)
    mixed = [longer(pair, 1 + at % 4) for at, pair in enumerate(pairs(14, 1))]
    write_dataset(bench.workspace.dataset, train=mixed, validation=mixed[:6])
    assert_alike(bench, 4)
