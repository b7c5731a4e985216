"""The device that an adapter is trained on: what it can, and how much of it may be used."""

import os
import resource
from dataclasses import dataclass
from typing import Literal

import torch

from tuner.errors import JobFailed
from tuner.training.plan import Dtype
from tuner.workspace import TrainTask

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Machine:
    """Where this process trains.

    Attributes:
        dtype: of the unquantized base model, and of what is computed with it.
        processes: that train together, this one included.
    """

    device: Device
    dtype: Dtype
    processes: int
    name: str


def set_up(task: TrainTask) -> Machine:
    """Choose the device, and keep to the share of it that the settings give.

    Raises:
        JobFailed: a GPU is asked for and there is none.
    """
    _see_one_gpu()
    if task.threads is not None:
        torch.set_num_threads(task.threads)
    device = _device(task.device)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if device == "cpu":
        _repeat_exactly()
        return Machine("cpu", "float32", processes, "cpu")
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if task.memory_share is not None:
        torch.cuda.set_per_process_memory_fraction(task.memory_share)
    dtype: Dtype = "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return Machine("cuda", dtype, processes, torch.cuda.get_device_name())


def peak_memory(device: str) -> int:
    """Bytes that were held at most since this process began: of the GPU, else of the process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _see_one_gpu() -> None:
    """Of several GPUs take the first, unless a launcher shares them out; the trainer would split batches over all."""
    if "LOCAL_RANK" not in os.environ:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.partition(",")[0]


def _device(wanted: str) -> Device:
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise JobFailed("training_failed", "the tuner was told to train on a GPU, but this machine has none to use")
    return "cuda" if there and wanted != "cpu" else "cpu"


def _repeat_exactly() -> None:
    """The same job gives the same bytes on a CPU. On a GPU that would cost speed, and it is not asked for."""
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
