"""The states of tuning jobs, and what becomes of a job that nobody is at work on: plain rules, without a database.

queued --claim--> validating_files --> running --> succeeded | failed | cancelled
   ^                     |                |
   +------ resume ---- paused <-----------+
   +------ resume ---- failed at its gate, which has said nothing
"""

from datetime import UTC, datetime
from typing import Any

from registry.tuning.tables import TuningJobRow

AT_WORK = ("validating_files", "running")
OPEN = ("queued", *AT_WORK, "paused")
ENDED = ("succeeded", "failed", "cancelled")
STATES = (*OPEN, *ENDED)
FAILURES = (
    "invalid_training_file",
    "invalid_validation_file",
    "invalid_hyperparameters",
    "rejected_by_gate",
    "unservable",
    "out_of_memory",
    "disk_full",
    "training_failed",
    "worker_lost",
    "evaluation_failed",
)
"""The codes of why a job failed: first those that tell of what was asked, then those that tell of the installation."""
_LET_GO: dict[str, Any] = {"worker": None, "lease_until": None, "estimated_finish": None, "claimable_from": None}


def settled(job: TuningJobRow, wanted: str) -> dict[str, Any]:
    """The columns of a job that nobody is at work on, by what is wanted of it; none if it is so already."""
    if wanted == "cancel":
        return ended("cancelled")
    if wanted == "pause":
        return {} if job.state == "paused" else let_go("paused")
    if can_be_judged_again(job):
        return {**let_go("queued"), "stage": "waiting", "attempt": 0, "error": None, "finished_at": None}
    return let_go("queued") if job.state == "paused" else {}


def let_go(state: str) -> dict[str, Any]:
    """The columns of a job that nobody holds any more and that has not ended; a queued one waits from now on."""
    return {"state": state, **_LET_GO} | ({"claimable_from": datetime.now(UTC)} if state == "queued" else {})


def can_be_judged_again(job: TuningJobRow) -> bool:
    """Whether it failed at its gate before that had said anything: its version is there still, a candidate."""
    is_rejected = job.error is not None and job.error["code"] == "rejected_by_gate"
    return job.state == "failed" and job.version is not None and not is_rejected


def ended(state: str) -> dict[str, Any]:
    """The columns of a job that has just ended."""
    return {"state": state, "stage": "done", "finished_at": datetime.now(UTC), **_LET_GO}


def is_free(job: TuningJobRow, now: datetime) -> bool:
    """Whether nobody is at work on it: it waits, or its tuner is gone."""
    return job.state not in AT_WORK or job.lease_until is None or job.lease_until < now
