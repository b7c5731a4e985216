"""Where a version comes from."""

import json
from pathlib import Path

import msgspec
import pytest

from registry.registry import Registry
from registry.tuning.orders import Hyperparameters
from tests.conftest import AdapterMaker
from tests.tuner.works import BASE_MODEL, ORDER, at_work
from tuner.base_files import base_digests
from tuner.lineage import lineage_of
from tuner.training.plan import Circumstances, Measured, Training, make_plan

MEASURED = Measured(
    tokens=1200,
    steps=30,
    best_step=20,
    validation_loss=0.5,
    rows_at_once=8,
    seconds=1800.0,
    gpu_seconds=3600.0,
    peak_memory_bytes=10**9,
    device_name="NVIDIA H100",
)


def _write_training(work: object, *, device: str = "cuda", processes: int = 2) -> Training:
    given = Circumstances(100, 10, 192, None, device, "bfloat16", processes)  # type: ignore[arg-type]
    measured = MEASURED if device == "cuda" else msgspec.structs.replace(MEASURED, gpu_seconds=0.0)
    training = Training(make_plan(work.order, given), measured)  # type: ignore[attr-defined]
    training.write(work.workspace.training_file)  # type: ignore[attr-defined]
    return training


async def test_a_version_says_where_it_comes_from(
    tmp_path: Path, registry: Registry, adapter_folder: AdapterMaker
) -> None:
    """Base, parent, dataset, every hyperparameter as planned, libraries, code, seed, device, time and cost."""
    parent = (await registry.push("support", adapter_folder(1.0), actor="ann")).version
    order = msgspec.structs.replace(ORDER, start_from=1, seed=7, hyperparameters=Hyperparameters(n_epochs=2))
    work = at_work(tmp_path, order, registry=registry, price_per_gpu_hour=3.0)
    training = _write_training(work)
    found = json.loads(json.dumps(await lineage_of(work)))  # it must be JSON
    digests = base_digests(str(BASE_MODEL), tmp_path / "digests.json")
    assert found["base"] == {"name": "tiny", **msgspec.to_builtins(digests)}
    assert found["parent"] == {"version": 1, "digest": parent.digest}
    assert (found["dataset"], found["job"], found["seed"]) == ("d" * 64, "ftjob-1", 7)
    assert msgspec.convert(found["plan"], type(training.plan)) == training.plan
    assert msgspec.convert(found["measured"], Measured) == MEASURED
    assert found["order"]["hyperparameters"]["n_epochs"] == 2
    assert (found["device"], found["processes"]) == ("NVIDIA H100", 2)
    assert found["cost"] == {"gpu_hours": 1.0, "price_per_gpu_hour": 3.0, "amount": 3.0}
    assert {"torch", "transformers", "peft", "trl"} <= found["libraries"].keys()
    assert found["code"] == {"version": "0.1.0", "commit": "c" * 40, "changed": False}, "of the process, as it started"


async def test_no_path_of_the_trainers_machine_is_in_it(tmp_path: Path) -> None:
    """The lineage is read by others, to whom this machine's folders mean nothing."""
    work = at_work(tmp_path)
    _write_training(work)
    text = json.dumps(await lineage_of(work))
    assert str(tmp_path) not in text
    assert str(BASE_MODEL) not in text


@pytest.mark.parametrize(("device", "price"), [("cpu", 3.0), ("cuda", None)])
async def test_without_a_gpu_or_a_price_there_is_no_cost(tmp_path: Path, device: str, price: float | None) -> None:
    """No figure is made up where nobody said what an hour costs, or no GPU was used."""
    work = at_work(tmp_path, price_per_gpu_hour=price)
    _write_training(work, device=device)
    assert (await lineage_of(work))["cost"] is None


async def test_a_new_lora_has_no_parent(tmp_path: Path) -> None:
    """What began anew went on from no version."""
    work = at_work(tmp_path)
    _write_training(work)
    found = await lineage_of(work)
    assert found["parent"] is None
