"""Where a version comes from: what somebody would need to make it again, and what it cost.

{"format": 1, "job": "ftjob-...", "method": "supervised",
 "base": {"name", "weights", "tokenizer", "chat_template"},       digests, as `tuner.base_files` has them
 "parent": {"version", "digest"} or null,                         the version whose weights it went on from
 "dataset": "...",                                                the frozen dataset's digest
 "order": {...},                                                  what was asked for, with "auto" where that was said
 "plan": {...}, "measured": {...},                                what came of it; see `tuner.training.plan`
 "seed": 0, "device": "NVIDIA H100", "processes": 1,
 "seconds": {"training", "job"},                                  of all processes that trained; since the job began
 "cost": {"gpu_hours", "price_per_gpu_hour", "amount"} or null,   of training; null on a CPU or without a price
 "libraries": {"torch": "2.13.0", ...}, "python": "3.11.2",
 "code": {"version", "commit", "changed"}}                        of the tuner's process; see `tuner.code_version`
"""

import asyncio
import platform
from datetime import UTC, datetime
from typing import Any

import msgspec

from tuner.base_files import base_digests
from tuner.code_version import installed_version
from tuner.shop import AtWork
from tuner.training.plan import Training

_LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "tokenizers")


async def lineage_of(work: AtWork) -> dict[str, Any]:
    """The lineage of the version that a job has just trained."""
    order, settings, job = work.order, work.shop.settings, work.job
    digests = await asyncio.to_thread(base_digests, settings.base_model, settings.work / "digests.json")
    training = await asyncio.to_thread(Training.read, work.workspace.training_file)
    plan, measured = training.plan, training.measured
    assert measured is not None  # the stage before this one ended
    job_seconds = None if job.started_at is None else (datetime.now(UTC) - job.started_at).total_seconds()
    return {
        "format": 1,
        "job": job.id,
        "method": order.method,
        "base": {"name": order.base, **msgspec.to_builtins(digests)},
        "parent": await _parent(work),
        "dataset": job.dataset,
        "order": msgspec.to_builtins(order),
        "plan": msgspec.to_builtins(plan),
        "measured": msgspec.to_builtins(measured),
        "seed": order.seed,
        "device": measured.device_name,
        "processes": plan.processes,
        "seconds": {"training": measured.seconds, "job": job_seconds},
        "cost": _cost(settings.pricing(order.base).price_per_gpu_hour, measured.gpu_seconds),
        "libraries": _libraries(),
        "python": platform.python_version(),
        "code": msgspec.to_builtins(work.shop.code),
    }


async def _parent(work: AtWork) -> dict[str, Any] | None:
    if work.order.start_from is None:
        return None
    record = await work.shop.registry.version_record(work.order.adapter, work.order.start_from)
    return {"version": record.number, "digest": record.digest}


def _cost(price: float | None, gpu_seconds: float) -> dict[str, float] | None:
    """What training cost, in the currency of the price."""
    if not price or not gpu_seconds:
        return None
    hours = gpu_seconds / 3600
    return {"gpu_hours": hours, "price_per_gpu_hour": price, "amount": hours * price}


def _libraries() -> dict[str, str]:
    return {name: found for name in _LIBRARIES if (found := installed_version(name)) is not None}
