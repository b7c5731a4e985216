"""Whether a job has the disk that it needs, before it begins: the tuner's own, and the artifact store's."""

import asyncio
import shutil
from pathlib import Path

from registry.base_model import BaseSpec
from registry.tuning.orders import LoraOrder
from tuner.errors import JobFailed
from tuner.shop import AtWork
from tuner.training import auto

_GIB = 1 << 30
_COPIES_OF_DATA = 2
"""The upload, fetched, and the dataset; as many in the store, with what is on its way there."""
_COPIES_OF_CHECKPOINTS = 3
"""The best, the newest and the one before; as many in the store."""
_BYTES_A_WEIGHT = 12
"""In float32 the weight and AdamW's two moments."""


def require_space_for_data(work: AtWork, uploaded: Path) -> None:
    """Hold the free disk against what a dataset of an upload takes.

    Raises:
        JobFailed
    """
    _require(work, _COPIES_OF_DATA * uploaded.stat().st_size)


async def require_space_for_training(work: AtWork) -> None:
    """Hold the free disk against what the adapter's checkpoints take.

    Raises:
        JobFailed, NotFound
    """
    weights = await _weights(work)
    await asyncio.to_thread(_require, work, _COPIES_OF_CHECKPOINTS * _BYTES_A_WEIGHT * weights)


async def _weights(work: AtWork) -> int:
    """How many weights the adapter will have, as far as is known before it is made."""
    order = work.order
    if order.start_from is None:
        return adapter_weights(work.shop.registry.base_for(order.base), order.lora)
    return (await work.shop.registry.version_record(order.adapter, order.start_from)).parameters


def adapter_weights(base: BaseSpec, lora: LoraOrder) -> int:
    """How many weights a new adapter will have: r (in + out) for each module; 0 where its shapes are not known."""
    shapes = base.module_shapes() or {}
    chosen = [
        shape
        for name, shape in shapes.items()
        if name != "lm_head" and (lora.targets == "all-linear" or name.rpartition(".")[2] in lora.targets)
    ]
    rank = auto.rank() if lora.rank == "auto" else lora.rank
    return rank * sum(map(sum, chosen))


def _require(work: AtWork, size_bytes: int) -> None:
    """Have so much for the tuner's folder and for the store's, each on its own disk.

    What goes to a remote store, or comes from it, lies in the tuner's cache meanwhile.
    """
    settings = work.shop.settings
    settings.work.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = _existing(work.shop.store.folder or settings.work)
    if _disk_of(store) == _disk_of(settings.work):
        _hold("the tuner's disk", settings.work, 2 * size_bytes, settings.tuner_min_free_gib)
        return
    _hold("the tuner's disk", settings.work, size_bytes, settings.tuner_min_free_gib)
    _hold("the artifact store's disk", store, size_bytes, settings.tuner_min_free_gib)


def _hold(what: str, folder: Path, size_bytes: int, least_gib: float) -> None:
    free = shutil.disk_usage(folder).free
    needed = least_gib * _GIB + size_bytes
    if free < needed:
        message = (
            f"{what} has {free / _GIB:.1f} GiB free, and the job needs {needed / _GIB:.1f} GiB; "
            "free some, and ask again"
        )
        raise JobFailed("disk_full", message)


def _existing(folder: Path) -> Path:
    """The folder, or where it will be made."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def _disk_of(folder: Path) -> int:
    return folder.stat().st_dev
