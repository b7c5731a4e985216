"""Which object in the cluster belongs to which job, and to which of its turns.

A job may wait several times: it is tried again, resumed, or its tuner was lost. Each time is a turn of its own, which
follows from the job's row alone. So however many dispatchers look, and whenever they were started, a turn has one
object.
"""

import hashlib
import re

from registry.tuning.states import AT_WORK
from registry.tuning.tables import TuningJobRow
from tuner.cluster.api import Object
from tuner.single import host_of

MANAGER = "ostler-tuner"
MANAGED_BY = "app.kubernetes.io/managed-by"
JOB = "ostler/job"
ADAPTER = "ostler/adapter"
BASE = "ostler/base"
TEMPLATE = "ostler/template"
SELECTOR = f"{MANAGED_BY}={MANAGER}"
JOB_SET = "jobset.sigs.k8s.io/jobset-name"
"""The label of a TrainJob's pods, whose JobSet has its name."""
_OWNERS = (JOB_SET, "batch.kubernetes.io/job-name", "job-name")
_LONGEST = 45
"""Of an object's name: its pods' names get up to 17 more, and may have 63."""
_LONGEST_LABEL = 63
_DIGITS = 8


def object_name(job: TuningJobRow) -> str:
    """The name of the object for a job that waits, in this turn."""
    is_lost = job.state in AT_WORK
    since = job.lease_until if is_lost else job.claimable_from
    turn = f"{job.id} {job.attempt} {is_lost} {None if since is None else since.isoformat()}"
    token = hashlib.sha256(turn.encode()).hexdigest()[:_DIGITS]
    plain = re.sub(r"[^a-z0-9]+", "-", job.id.lower().removeprefix("ftjob-"))
    return f"ostler-{plain[: _LONGEST - _DIGITS - 8].strip('-')}-{token}"


def label_value(text: str) -> str:
    """A text as a label's value."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)[:_LONGEST_LABEL].strip("-_.")


def holder(job: TuningJobRow) -> str | None:
    """The object whose pod holds the job; None where none does. A tuner's name begins with what its object says."""
    if job.state not in AT_WORK:
        return None
    return last_holder(job)


def last_holder(job: TuningJobRow) -> str | None:
    """The object whose pod holds the job, or was the last to: none, once the job came to wait in another way."""
    return None if job.worker is None else host_of(job.worker)


def owner(pod: Object) -> str | None:
    """The name of the object that a pod belongs to."""
    labels = pod["metadata"].get("labels") or {}
    return next((labels[name] for name in _OWNERS if name in labels), None)


def job_of(made: Object) -> str | None:
    """The id of an object's job."""
    return (made["metadata"].get("annotations") or {}).get(JOB)


def template_of(made: Object) -> str | None:
    """Of which template an object was made."""
    return (made["metadata"].get("annotations") or {}).get(TEMPLATE)
