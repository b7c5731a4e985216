"""The versions that jobs make: found again by who made them, and rejected where no gate will see them any more."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from registry.catalog import Catalog, Version
from registry.errors import NotFound
from registry.transactions import Guard
from registry.tuning.states import ENDED, can_be_judged_again
from tuner.shop import AtWork, Shop

_BEFORE, _AFTER = "tuner (", ")"
_LEFT = "the job ended before its gate had said anything"


def actor_of(job_id: str) -> str:
    """How history names the tuner at work on a job."""
    return f"{_BEFORE}{job_id}{_AFTER}"


async def made_by(work: AtWork) -> Version | None:
    """The version that the job has registered already, also where its row does not say so yet."""
    adapter = (await work.shop.registry.catalog()).adapters.get(work.order.adapter)
    made = () if adapter is None else adapter.versions.values()
    return next((version for version in made if version.created_by == actor_of(work.job.id)), None)


async def adapter_folder(work: AtWork, number: int) -> Path:
    """A version's files, on this machine.

    Raises:
        NotFound, StoreFailure
    """
    record = await work.shop.registry.version_record(work.order.adapter, number)
    return await work.fetch(record.digest)


async def reject_candidate(work: AtWork, reason: str) -> None:
    """Close the gate for the job's version, if it stands there still.

    Raises:
        JobLost
    """
    version = await made_by(work)
    if version is not None and version.verdict == "candidate":
        await _reject(work.shop, version, reason, work.guard)


async def reject_left_candidates(shop: Shop) -> None:
    """Close the gate for the versions of jobs that ended, but for those that may come to it again."""
    for version in _at_their_gate(await shop.registry.catalog()):
        job_id = version.created_by.removeprefix(_BEFORE).removesuffix(_AFTER)
        try:
            job = await shop.jobs.find(job_id)
        except NotFound:
            continue
        if job.state in ENDED and not can_be_judged_again(job):
            await _reject(shop, version, _LEFT)


def _at_their_gate(catalog: Catalog) -> Iterator[Version]:
    for adapter in catalog.adapters.values():
        for version in adapter.versions.values():
            if version.verdict == "candidate" and version.created_by.startswith(_BEFORE):
                yield version


async def _reject(shop: Shop, version: Version, reason: str, guard: Guard | None = None) -> None:
    said: dict[str, Any] = {"report": _report(version, reason), "actor": version.created_by}
    await shop.registry.judge(version.adapter, version.number, passed=False, **said, guard=guard)


def _report(version: Version, reason: str) -> dict[str, Any]:
    """A gate's report that has no parts."""
    return {
        "format": 1,
        "passed": False,
        "reason": reason,
        "candidate": version.engine_name,
        "incumbent": None,
        "base": None,
        "alpha": None,
        "dataset": None,
        "created_at": datetime.now(UTC).isoformat(),
        "seconds": 0.0,
        "page": None,
        "parts": [],
        "told": [],
        "plots": {},
    }
