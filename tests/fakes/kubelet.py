"""What a scheduler, a kubelet and the controllers of Jobs write into a fake cluster, as real ones do."""

import copy
import uuid
from datetime import datetime
from typing import Any

from tests.fakes.kubernetes import NAMESPACE, FakeCluster, Object, stamp

_BACKOFF = ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
_DEADLINE = ("DeadlineExceeded", "Job was active longer than specified deadline")


class Kubelet:
    """Acts for the one pod of a Job, or for each of a TrainJob's."""

    def __init__(self, cluster: FakeCluster, name: str, plural: str = "jobs", container: str = "tuner") -> None:
        self._cluster, self._name, self._plural, self._container = cluster, name, plural, container
        self.pod = f"{name}-x7k2p" if plural == "jobs" else f"{name}-node-0-0-x7k2p"

    @property
    def made(self) -> Object:
        """The object."""
        return self._cluster.objects(self._plural)[self._name]

    def make_pod(self) -> None:
        """The controller makes a pod, which nobody has placed yet."""
        made = self.made
        labels = {"jobset.sigs.k8s.io/jobset-name": self._name}
        if self._plural == "jobs":
            labels = made["spec"]["template"]["metadata"]["labels"] | {
                "batch.kubernetes.io/job-name": self._name,
                "job-name": self._name,
            }
        owner = {"apiVersion": made["apiVersion"], "kind": made["kind"], "name": self._name, "controller": True}
        metadata = {
            "name": self.pod,
            "namespace": NAMESPACE,
            "uid": str(uuid.uuid4()),
            "labels": labels,
            "ownerReferences": [owner | {"uid": made["metadata"]["uid"]}],
            "creationTimestamp": stamp(self._cluster.now),
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}, "status": {"phase": "Pending"}}
        self._cluster.put("pods", pod)

    def cannot_place(self, message: str) -> None:
        """The scheduler finds no node."""
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self._change(status={"phase": "Pending", "conditions": [condition]})

    def place(self, node: str = "gpu-1") -> None:
        """The scheduler found one; its container is being made."""
        self._change(
            spec={"nodeName": node}, status=self._status("Pending", {"waiting": {"reason": "ContainerCreating"}})
        )

    def wait_for(self, reason: str, message: str = "") -> None:
        """The kubelet cannot start the container."""
        self._change(status=self._status("Pending", {"waiting": {"reason": reason, "message": message}}))

    def run(self, since: datetime | None = None) -> None:
        """The container runs."""
        self._change(status=self._status("Running", {"running": {"startedAt": stamp(since or self._cluster.now)}}))

    def end(self, code: int, reason: str | None = None, **status: Any) -> None:
        """The container ended, and with it the pod and the Job."""
        state = {"exitCode": code, "reason": reason or ("Completed" if code == 0 else "Error")}
        self._change(status=self._status("Failed" if code else "Succeeded", {"terminated": state}) | status)
        if code:
            self.fail(*_BACKOFF)
        else:
            self._finish("Complete", "CompletionsReached", "Reached expected number of succeeded pods")

    def evict(self, message: str) -> None:
        """The kubelet needs the node's memory or disk for others."""
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
        status = {"phase": "Failed", "reason": "Evicted", "message": message, "conditions": [condition]}
        self._change(status=status)
        self.fail(*_BACKOFF)

    def lose_node(self) -> None:
        """The node does not answer: its pod is to be deleted, and nobody there hears of it."""
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
        pod = self._cluster.objects("pods")[self.pod]
        self._change(status={**pod["status"], "conditions": [condition]})
        self._decide(*_BACKOFF)

    def exceed_deadline(self) -> None:
        """The Job controller ends a Job that was active for too long: it says so, and deletes its pods."""
        self._decide(*_DEADLINE)

    def pods_end(self) -> None:
        """The pods of a Job that fails have ended, and only now it has failed."""
        (target,) = self.made["status"]["conditions"]
        self._cluster.remove("pods", self.pod)
        self.fail(target["reason"], target["message"])

    def exceed_deadline_of_old(self) -> None:
        """The same before Kubernetes 1.31: it has failed at once, while its pods end."""
        self._cluster.remove("pods", self.pod)
        self._finish("Failed", *_DEADLINE)

    def fail(self, reason: str, message: str) -> None:
        """The controller gives the object up, whose pods have ended."""
        if self._plural == "jobs":
            self._set_conditions(self._condition("FailureTarget", reason, message))
        self._finish("Failed", reason, message)

    def suspend(self) -> None:
        """A queue holds the object back."""
        self._set_conditions({"type": "Suspended", "status": "True", "reason": "JobSuspended"})

    def _decide(self, reason: str, message: str) -> None:
        """The controller has decided that the object fails, and has its pods end."""
        pod = copy.deepcopy(self._cluster.objects("pods")[self.pod])
        pod["metadata"] |= {"deletionTimestamp": stamp(self._cluster.now), "deletionGracePeriodSeconds": 80}
        self._cluster.put("pods", pod)
        self._set_conditions(self._condition("FailureTarget", reason, message))

    def _finish(self, kind: str, reason: str, message: str) -> None:
        before = (self.made.get("status") or {}).get("conditions") or []
        self._set_conditions(*before, self._condition(kind, reason, message))

    def _condition(self, kind: str, reason: str, message: str) -> Object:
        at = stamp(self._cluster.now)
        return {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": at}

    def _set_conditions(self, *conditions: Object) -> None:
        made = copy.deepcopy(self.made)
        made["status"] = {"conditions": list(conditions)}
        self._cluster.put(self._plural, made)

    def _status(self, phase: str, state: Object) -> Object:
        container = {"name": self._container, "restartCount": 0, "image": "ostler/tuner", "imageID": "", "state": state}
        scheduled = {"type": "PodScheduled", "status": "True"}
        return {"phase": phase, "conditions": [scheduled], "containerStatuses": [{"ready": False, **container}]}

    def _change(self, **parts: Object) -> None:
        pod = copy.deepcopy(self._cluster.objects("pods")[self.pod])
        for name, part in parts.items():
            pod[name] = {**pod[name], **part} if name == "spec" else part
        self._cluster.put("pods", pod)
