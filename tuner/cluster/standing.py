"""How an object in the cluster and its pods stand: plain functions over the API's JSON, and words for clients.

The words hold the scheduler's, the kubelet's and the controllers' own reasons, and names of pods and nodes; no paths,
images or variables.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from registry.tuning.events import Level
from tuner.cluster.api import Object
from tuner.single import GIVEN_BACK, LOST, NOT_THERE

DEADLINE = "DeadlineExceeded"
_SAID_BY_ITSELF = (0, GIVEN_BACK, LOST, NOT_THERE)
"""Exit codes of a tuner that has told in its job what happened."""
_CANNOT_PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_CANNOT_START = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff")
_OUT_OF_MEMORY = "OOMKilled"
_OVER = ("Succeeded", "Failed")
_DISRUPTIONS = {
    "PreemptionByScheduler": "it made room for a pod of a higher priority",
    "EvictionByEvictionAPI": "it was evicted, as when its node is drained",
    "DeletionByTaintManager": "its node was tainted, as one that is lost",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "its node ended it, being short of something or shutting down",
}


@dataclass(frozen=True, slots=True)
class Line:
    """Something worth telling in the job's events."""

    message: str
    level: Level = "info"


@dataclass(frozen=True, slots=True)
class Standing:
    """An object with its pods.

    Attributes:
        is_finished: it will start no pod any more.
        finished_at: since when.
        are_pods_over: whether it has pods, and all of them have ended.
        has_failed: it finished, and not because its tuner had done what there was to do.
        failing_since: when the cluster has decided that it fails, though its pods may not have ended yet.
        is_over_deadline: it fails because it was active for too long.
        is_suspended: nobody may start its pods yet.
        has_pods: whether there are any.
        has_begun: whether a container has run.
        is_running: whether one runs.
        running_since: since when all of its pods' run.
        lines: what is to be told.
    """

    is_finished: bool
    finished_at: datetime | None
    are_pods_over: bool
    has_failed: bool
    failing_since: datetime | None
    is_over_deadline: bool
    is_suspended: bool
    has_pods: bool
    has_begun: bool
    is_running: bool
    running_since: datetime | None
    lines: tuple[Line, ...]

    @property
    def why(self) -> str:
        """The last thing that went wrong, in words that end no sentence."""
        warned = [line.message for line in self.lines if line.level != "info"]
        return warned[-1] if warned else "its pod ended before it had begun with the job"


def standing_of(made: Object, pods: Sequence[Object], container: str) -> Standing:
    """How an object stands; `container` is the one of its pods that does the tuning."""
    conditions = _conditions(made)
    failed, failing = conditions.get("Failed"), _failing(conditions)
    finished = failed or conditions.get("Complete")
    lines = [*_lines_of_object(made, conditions)]
    for pod in pods:
        lines += _lines_of_pod(pod, container)
    since = [moment for pod in pods if (moment := _running_since(pod, container)) is not None]
    all_run = bool(pods) and len(since) == len(pods)
    return Standing(
        is_finished=finished is not None,
        finished_at=None if finished is None else moment_of(finished.get("lastTransitionTime")),
        are_pods_over=bool(pods) and all((pod.get("status") or {}).get("phase") in _OVER for pod in pods),
        has_failed=failed is not None and not _all_said_by_themselves(pods, container),
        failing_since=None if failing is None else moment_of(failing.get("lastTransitionTime")),
        is_over_deadline=_is_over_deadline(conditions),
        is_suspended="Suspended" in conditions,
        has_pods=bool(pods),
        has_begun=any(_has_begun(pod, container) for pod in pods),
        is_running=bool(since),
        running_since=max(since) if all_run else None,
        lines=tuple(lines),
    )


def moment_of(text: str | None) -> datetime | None:
    """A time as the API has it."""
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def _conditions(found: Object) -> Mapping[str, Object]:
    """The conditions that hold, by their type."""
    told = (found.get("status") or {}).get("conditions") or []
    return {each["type"]: each for each in told if each.get("status") == "True"}


def _failing(conditions: Mapping[str, Object]) -> Object | None:
    """Newer clusters say first that a Job fails, and that it has failed once its pods have ended."""
    return conditions.get("FailureTarget") or conditions.get("Failed")


def _is_over_deadline(conditions: Mapping[str, Object]) -> bool:
    failing = _failing(conditions)
    return failing is not None and failing.get("reason") == DEADLINE


def _lines_of_object(made: Object, conditions: Mapping[str, Object]) -> Iterator[Line]:
    name = f"{made['kind']} {made['metadata']['name']}"
    if "Suspended" in conditions:
        yield Line(f"{name} is held back, as by a queue until there is room in it")
    if _is_over_deadline(conditions):
        yield Line(f"{name} was active for longer than its deadline allows", "warn")


def _lines_of_pod(pod: Object, container: str) -> Iterator[Line]:
    """What there is to tell of a pod, in the order in which it may have come to it."""
    name, node = f"Pod {pod['metadata']['name']}", pod["spec"].get("nodeName")
    status = _status(pod, container)
    if status is not None and (_running(status) or _ended(status)):
        yield Line(f"{name} started on the node {node}")
    elif (why := _why_pending(pod)) is not None:
        yield Line(f"{name} {why}", "warn")
    if (why := _why_ended(pod, status)) is not None:
        yield Line(f"{name} ended: {why}", "warn")


def _why_pending(pod: Object) -> str | None:
    """Why a pod's container does not run yet; None where that is only a matter of time."""
    for each in (pod.get("status") or {}).get("conditions") or []:
        if each["type"] == "PodScheduled" and each["status"] == "False":
            return f"cannot be placed yet: {each.get('message') or each.get('reason')}"
    for status in _statuses(pod):
        reason = ((status.get("state") or {}).get("waiting") or {}).get("reason")
        if reason in _CANNOT_PULL:
            return f"waits: its image cannot be pulled ({reason})"
        if reason in _CANNOT_START:
            return f"waits: its container cannot be started ({reason})"
    return None


def _why_ended(pod: Object, status: Object | None) -> str | None:
    """What ended a pod that did not end by itself, or that ends now."""
    told = pod.get("status") or {}
    if told.get("reason") == "Evicted":
        return f"it was evicted. {told.get('message', '')}".strip()
    if told.get("reason") == "NodeLost" or told.get("phase") == "Unknown":
        return f"its node {pod['spec'].get('nodeName')} does not answer any more"
    disrupted = _conditions(pod).get("DisruptionTarget")
    if disrupted is not None:
        return _DISRUPTIONS.get(disrupted.get("reason", ""), f"it was disrupted ({disrupted.get('reason')})")
    ended = None if status is None else _ended(status)
    if ended is None or ended.get("exitCode") in _SAID_BY_ITSELF:
        return None
    if ended.get("reason") == _OUT_OF_MEMORY:
        return f"it needed more memory than its limit allows ({_OUT_OF_MEMORY})"
    return f"its tuner ended with the exit code {ended.get('exitCode')}"


def _all_said_by_themselves(pods: Sequence[Object], container: str) -> bool:
    """Whether every pod's tuner has ended with a code of its own."""
    ended = [_ended(status) if (status := _status(pod, container)) is not None else None for pod in pods]
    return bool(ended) and all(each is not None and each.get("exitCode") in _SAID_BY_ITSELF for each in ended)


def _running_since(pod: Object, container: str) -> datetime | None:
    status = _status(pod, container)
    running = None if status is None else _running(status)
    return None if running is None else moment_of(running.get("startedAt"))


def _has_begun(pod: Object, container: str) -> bool:
    status = _status(pod, container)
    return status is not None and bool(_running(status) or _ended(status))


def _statuses(pod: Object) -> list[Object]:
    told = pod.get("status") or {}
    return [*(told.get("initContainerStatuses") or []), *(told.get("containerStatuses") or [])]


def _status(pod: Object, container: str) -> Object | None:
    """The status of the container that does the tuning."""
    told: list[Object] = (pod.get("status") or {}).get("containerStatuses") or []
    return next((each for each in told if each["name"] == container), None)


def _running(status: Object) -> Any:
    return (status.get("state") or {}).get("running")


def _ended(status: Object) -> Any:
    return (status.get("state") or {}).get("terminated")
