"""The chart's templates of tuning jobs make objects that clusters take, and its dispatcher may do what it does."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml  # type: ignore[import-untyped]
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob
from kubernetes.client import ApiClient, Configuration

from registry.tuning.tables import TuningJobRow
from tests.fakes.kubernetes import NAMESPACE as FAKE_NAMESPACE
from tests.fakes.kubernetes import FakeCluster
from tests.helm.chart import KUBERNETES, VALUE_SETS, Json, rendered
from tuner.cluster.api import JOB, POD, TRAIN_JOB, Cluster, Kind
from tuner.cluster.template import Limits, read_template

WITH_TEMPLATES = [value_set for value_set in VALUE_SETS if rendered(value_set).job_templates]
A_JOB = TuningJobRow(id="ftjob-0123456789abcdef01234567", adapter="support", base="qwen3-8b", attempt=1)


def made_from(template: Json, folder: Path) -> Json:
    """What the dispatcher makes of a job by this template."""
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(template))
    return read_template(file, Limits(deadline_s=3600, ttl_s=600)).of(A_JOB, "serving")


def test_both_kinds_of_jobs_are_tried() -> None:
    """A Job in one value set, a TrainJob in another."""
    kinds = {each["kind"] for value_set in WITH_TEMPLATES for each in rendered(value_set).job_templates}
    assert kinds == {"Job", "TrainJob"}


@pytest.mark.parametrize("value_set", WITH_TEMPLATES)
def test_the_dispatcher_makes_jobs_of_the_template(value_set: str, tmp_path: Path) -> None:
    """It takes the template, and each version of Kubernetes, or Kubeflow's Trainer, takes what it makes."""
    for template in rendered(value_set).job_templates:
        made = made_from(template, tmp_path)
        if made["kind"] == "Job":
            for version in KUBERNETES:
                kubernetes_validate.validate(made, f"{version}.0", strict=True)
        else:
            assert said(TrainerV1alpha1TrainJob.from_dict(made).to_dict()) == said(made)


def said(tree: Any) -> Any:
    """What an object says, without what it leaves open: a model drops the names that it does not know."""
    if isinstance(tree, dict):
        return {key: said(value) for key, value in tree.items() if value is not None}
    return [said(each) for each in tree] if isinstance(tree, list) else tree


@pytest.fixture
async def fake() -> AsyncIterator[FakeCluster]:
    """An API server that notes what it is asked."""
    cluster = FakeCluster()
    await cluster.start()
    yield cluster
    await cluster.stop()


def ask_everything(cluster: Cluster, kind: Kind) -> None:
    """All that a dispatcher ever asks of a cluster, with jobs of one kind."""
    made = cluster.create(kind, {"metadata": {"name": "one", "labels": {"a": "b"}}, "spec": {}})
    for each in (kind, POD):
        listing = cluster.listed(each, "a=b")
        cluster.watch(each, "a=b", listing.version).close()
    cluster.log_tail("one", "tuner", 5)
    cluster.warnings(kind, "one")
    cluster.delete(kind, "one", made["metadata"]["uid"])


def granted(value_set: str) -> set[tuple[str, str]]:
    """The verbs and resources of the dispatcher's role."""
    (role,) = rendered(value_set).of("Role")
    return {(verb, resource) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}


@pytest.mark.parametrize(("value_set", "kind"), [("everything", JOB), ("train-job", TRAIN_JOB)])
async def test_the_role_has_the_rights_that_the_code_uses(value_set: str, kind: Kind, fake: FakeCluster) -> None:
    """All of them, and no other."""
    methods = {name for name, _ in inspect.getmembers(Cluster, inspect.isfunction) if not name.startswith("_")}
    assert methods == {"create", "listed", "watch", "log_tail", "warnings", "delete"}, "ask_everything is out of date"
    fake.logs["one"] = "a line"
    cluster = Cluster(ApiClient(Configuration(host=fake.url)), FAKE_NAMESPACE)
    await asyncio.to_thread(ask_everything, cluster, kind)
    assert granted(value_set) == set(fake.asked)


def test_the_role_is_bound_to_the_dispatcher_alone() -> None:
    """And is of its namespace only, in the API group of what it makes."""
    chart = rendered("everything")
    (binding,), (role,) = chart.of("RoleBinding"), chart.of("Role")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (subject,) = binding["subjects"]
    users = [pods for pods in chart.workloads if pods.spec.get("serviceAccountName") == subject["name"]]
    assert {pods.component for pods in users} == {"tuner"}
    groups = {resource: rule["apiGroups"] for rule in role["rules"] for resource in rule["resources"]}
    assert groups == {"jobs": ["batch"], "pods": [""], "pods/log": [""], "events": [""]}
