"""What is read of an object and its pods, in words: each as a real cluster writes it."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from tests.fakes.kubelet import Kubelet
from tests.fakes.kubernetes import FakeCluster
from tuner.cluster.api import Object
from tuner.cluster.standing import Standing, standing_of

NAME = "ostler-1-2"


@pytest.fixture
def kubelet() -> Kubelet:
    """Of an object with a pod, which nobody serves."""
    cluster = FakeCluster()
    made: Object = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": NAME, "uid": "1"}}
    cluster.put("jobs", made | {"spec": {"template": {"metadata": {"labels": {}}}}})
    kubelet = Kubelet(cluster, NAME)
    kubelet.make_pod()
    return kubelet


def found(kubelet: Kubelet) -> Standing:
    """How it stands."""
    return standing_of(kubelet.made, list(kubelet._cluster.objects("pods").values()), "tuner")


PENDING: dict[str, Callable[[Kubelet], None]] = {
    "cannot be placed yet: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.": lambda kubelet: (
        kubelet.cannot_place("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    ),
    "waits: its image cannot be pulled (ErrImagePull)": lambda kubelet: kubelet.wait_for("ErrImagePull", "registry/x"),
    "waits: its image cannot be pulled (InvalidImageName)": lambda kubelet: kubelet.wait_for("InvalidImageName"),
    "waits: its container cannot be started (CreateContainerConfigError)": lambda kubelet: kubelet.wait_for(
        "CreateContainerConfigError", 'secret "keys" not found'
    ),
}


@pytest.mark.parametrize("says", PENDING)
def test_why_a_pod_waits(kubelet: Kubelet, says: str) -> None:
    """In the scheduler's words, or by the kubelet's reason; images and secrets are not named."""
    PENDING[says](kubelet)
    standing = found(kubelet)
    assert [(line.message, line.level) for line in standing.lines] == [(f"Pod {kubelet.pod} {says}", "warn")]
    assert not standing.is_finished
    assert not standing.has_begun


def test_a_pod_that_is_being_made_says_nothing(kubelet: Kubelet) -> None:
    """That is only a matter of time."""
    assert found(kubelet).lines == ()
    kubelet.place()
    assert found(kubelet).lines == ()


def test_a_running_pod_says_where_and_since_when(kubelet: Kubelet) -> None:
    """The node's name is the cluster's own."""
    kubelet.place("gpu-7")
    kubelet.run(datetime(2026, 11, 22, 4, 30, tzinfo=UTC))
    standing = found(kubelet)
    assert [line.message for line in standing.lines] == [f"Pod {kubelet.pod} started on the node gpu-7"]
    assert standing.running_since == datetime(2026, 11, 22, 4, 30, tzinfo=UTC)
    assert standing.is_running
    assert standing.has_begun


def test_several_pods_run_when_the_last_one_does(kubelet: Kubelet) -> None:
    """Until then nobody can be late with beginning: the others wait for it."""
    other = Kubelet(kubelet._cluster, NAME)
    other.pod += "-2"
    other.make_pod()
    kubelet.place()
    kubelet.run(datetime(2026, 11, 22, 4, 30, tzinfo=UTC))
    standing = found(kubelet)
    assert (standing.is_running, standing.running_since) == (True, None)
    other.place()
    other.run(datetime(2026, 11, 22, 5, 30, tzinfo=UTC))
    assert found(kubelet).running_since == datetime(2026, 11, 22, 5, 30, tzinfo=UTC)


ENDED: dict[str, Callable[[Kubelet], None]] = {
    "it needed more memory than its limit allows (OOMKilled)": lambda kubelet: kubelet.end(137, "OOMKilled"),
    "its tuner ended with the exit code 1": lambda kubelet: kubelet.end(1),
    "it was evicted. The node was low on resource: memory.": lambda kubelet: kubelet.evict(
        "The node was low on resource: memory."
    ),
    "its node gpu-1 does not answer any more": lambda kubelet: kubelet._change(status={"phase": "Unknown"}),
}


@pytest.mark.parametrize("says", ENDED)
def test_why_a_pod_ended(kubelet: Kubelet, says: str) -> None:
    """It is the last thing that went wrong, too."""
    kubelet.place()
    kubelet.run()
    ENDED[says](kubelet)
    standing = found(kubelet)
    assert standing.lines[-1].message == f"Pod {kubelet.pod} ended: {says}"
    assert standing.why == standing.lines[-1].message
    assert standing.is_finished is standing.has_failed is ("node gpu-1" not in says)


REASONS = {
    "PreemptionByScheduler": "it made room for a pod of a higher priority",
    "EvictionByEvictionAPI": "it was evicted, as when its node is drained",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "its node ended it, being short of something or shutting down",
    "SomethingNew": "it was disrupted (SomethingNew)",
}


@pytest.mark.parametrize("reason", REASONS)
def test_who_disrupted_a_pod_is_told_though_its_tuner_ended_in_order(kubelet: Kubelet, reason: str) -> None:
    """SIGTERM had it give the job back."""
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason}
    kubelet.place()
    kubelet.end(75, conditions=[condition])
    standing = found(kubelet)
    assert standing.lines[-1].message == f"Pod {kubelet.pod} ended: {REASONS[reason]}"
    assert not standing.has_failed


@pytest.mark.parametrize("code", [0, 75, 76, 77])
def test_a_tuner_that_said_itself_how_it_went_has_not_failed(kubelet: Kubelet, code: int) -> None:
    """Its exit code is one of those that it has for that; the job's events say the rest."""
    kubelet.place()
    kubelet.end(code)
    standing = found(kubelet)
    assert standing.is_finished
    assert standing.are_pods_over
    assert not standing.has_failed
    assert [line.message for line in standing.lines] == [f"Pod {kubelet.pod} started on the node gpu-1"]


def test_an_object_over_its_deadline_says_so_before_its_pods_have_ended(kubelet: Kubelet) -> None:
    """As clusters do since Kubernetes 1.31; it has failed when they have."""
    kubelet.run()
    kubelet.exceed_deadline()
    standing = found(kubelet)
    assert standing.is_over_deadline
    assert standing.failing_since is not None
    assert not standing.is_finished
    assert standing.lines[0].message == f"Job {NAME} was active for longer than its deadline allows"
    kubelet.pods_end()
    assert_over_deadline(found(kubelet))


def test_an_object_over_its_deadline_says_so_at_once(kubelet: Kubelet) -> None:
    """As older clusters do."""
    kubelet.run()
    kubelet.exceed_deadline_of_old()
    assert_over_deadline(found(kubelet))


def assert_over_deadline(standing: Standing) -> None:
    """It has failed for that, and its pods are gone."""
    assert standing.is_over_deadline
    assert standing.has_failed
    assert not standing.are_pods_over
    assert standing.finished_at is not None
    assert standing.why == f"Job {NAME} was active for longer than its deadline allows"
