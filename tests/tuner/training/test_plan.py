"""A plan has a value for everything, the order's own where it gives one."""

from pathlib import Path

import msgspec
import pytest

from demo import ADAPTERS
from registry.tuning.orders import LoraOrder, StoppingOrder
from tests.tuner.training.samples import given, order, planned
from tuner.errors import JobFailed
from tuner.training import auto
from tuner.training.plan import LoraShape, Measured, Training, held_plan, make_plan, read_shape

SHAPE = LoraShape(8, 16, rslora=False, targets=["q_proj", "v_proj"])


def test_everything_left_open_has_a_value_by_the_rules() -> None:
    """Learning rate, epochs, batch and the LoRA's shape follow from the rows and the model."""
    plan = planned()
    assert (plan.batch_size, plan.epochs, plan.steps, plan.warmup_steps) == (16, 3, 189, 6)
    assert plan.learning_rate == auto.learning_rate(4096)
    assert plan.lora == LoraShape(16, 32.0, rslora=False, targets="all-linear")
    assert plan.gradient_checkpointing
    assert plan.beta is None


def test_what_the_order_says_is_done() -> None:
    """Its numbers take the rules' place; the multiplier multiplies the rule's rate."""
    lora = LoraOrder(rank=4, alpha=12.0, targets=["v_proj", "q_proj"], rslora=True, quantization="nf4")
    stopping = StoppingOrder(patience=1, least_change=0.5, checkpoints=10)
    wanted = order(epochs=2, batch=10, multiplier=3.0, lora=lora, stopping=stopping, seed=11)
    plan = make_plan(wanted, given(device="cpu", dtype="float32"))
    assert (plan.batch_size, plan.epochs, plan.steps, plan.seed) == (10, 2, 200, 11)
    assert plan.learning_rate == pytest.approx(3 * auto.learning_rate(4096))
    assert plan.lora == LoraShape(4, 12.0, rslora=True, targets=["q_proj", "v_proj"])
    assert (plan.quantization, plan.gradient_checkpointing) == ("nf4", False)
    assert (plan.patience, plan.least_change, plan.evaluate_every) == (1, 0.5, 10)


def test_rslora_keeps_the_scale() -> None:
    """Alpha is twice the root of the rank."""
    plan = make_plan(order(lora=LoraOrder(rslora=True)), given())
    assert plan.lora.alpha == 8


def test_preferences_have_their_own_rate_and_beta() -> None:
    """DPO's defaults hold for that method alone."""
    plan = planned(method="dpo")
    assert plan.learning_rate == pytest.approx(5e-6)
    assert plan.beta == 0.1


def test_a_batch_is_shared_out_evenly_among_processes() -> None:
    """It grows to the next multiple of their number."""
    assert planned(processes=3).batch_size == 18


def test_a_batch_is_never_larger_than_the_split() -> None:
    """More rows than there are make no batch."""
    assert make_plan(order(batch=64), given(rows=10)).batch_size == 10


def test_an_adapter_keeps_its_shape_when_training_goes_on() -> None:
    """What the order leaves open is taken from the version that it starts from."""
    assert planned(start=SHAPE).lora == SHAPE


@pytest.mark.parametrize(
    ("lora", "param"),
    [
        (LoraOrder(rank=16), "rank"),
        (LoraOrder(alpha=8.0), "alpha"),
        (LoraOrder(rslora=True), "rslora"),
        (LoraOrder(targets=["o_proj"]), "targets"),
    ],
)
def test_another_shape_than_that_of_the_start_is_refused(lora: LoraOrder, param: str) -> None:
    """The message names the parameter and the version."""
    with pytest.raises(JobFailed, match=f"`{param}`.*support@2") as caught:
        make_plan(order(lora=lora, start_from=2), given(start=SHAPE))
    assert (caught.value.code, caught.value.param) == ("invalid_hyperparameters", param)


def test_a_versions_shape_is_read_from_its_files() -> None:
    """As the demo's second version has it."""
    shape = read_shape(ADAPTERS[1].folder)
    assert (shape.rank, shape.alpha, shape.rslora) == (16, 32, False)
    assert "q_proj" in shape.targets


def test_the_record_reads_as_it_was_written(tmp_path: Path) -> None:
    """training.json holds the plan, and what was measured."""
    measured = Measured(100, 10, 8, 0.5, 16, 1.5, 0.0, 1000, "cpu")
    training = Training(planned(), measured)
    training.write(tmp_path / "training.json")
    assert Training.read(tmp_path / "training.json") == training


def test_a_plan_is_held_to_where_the_machine_can() -> None:
    """More GPUs share out the same batches; a GPU that knows bfloat16 keeps to float32 all the same."""
    plan = planned(dtype="float32")
    assert held_plan(plan, given(processes=4)) == msgspec.structs.replace(plan, processes=4)


def test_what_a_machine_cannot_keep_is_changed_and_nothing_else() -> None:
    """Batches that its processes cannot share out evenly are larger there, of the same number of steps."""
    plan = planned()
    changed = {"dtype": "float32", "device": "cpu", "gradient_checkpointing": False, "processes": 3, "batch_size": 18}
    held = held_plan(plan, given(device="cpu", dtype="float32", processes=3))
    assert held == msgspec.structs.replace(plan, **changed)
