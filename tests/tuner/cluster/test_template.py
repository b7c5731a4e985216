"""The object that a job becomes: what the operator's file says, and what the tuner sets."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

from registry.tuning.tables import TuningJobRow
from tests.tuner.cluster.conftest import JOB_TEMPLATE, TRAIN_JOB_TEMPLATE, template_of
from tuner.cluster import naming
from tuner.cluster.template import Limits, read_template

ROOT = Path(__file__).parents[3]


def job(**values: Any) -> TuningJobRow:
    """A job that waits."""
    usual = {"id": "ftjob-0123456789abcdef01234567", "adapter": "Support_EN", "base": "org/tiny", "state": "queued"}
    return TuningJobRow(**usual | {"attempt": 0} | values)


@pytest.mark.parametrize("version", ["1.27", "1.37"])
def test_a_job_is_valid_for_kubernetes(tmp_path: Path, version: str) -> None:
    """Strictly: with no field that the server does not know."""
    made = template_of(tmp_path, limits=Limits(deadline_s=7200, ttl_s=600)).of(job(), "tuning")
    kubernetes_validate.validate(made, version, strict=True)


def test_a_job_has_what_both_say(tmp_path: Path) -> None:
    """One pod that is tried once, on the operator's nodes, in the operator's queue."""
    made = template_of(tmp_path, limits=Limits(deadline_s=7200, ttl_s=600)).of(job(), "tuning")
    spec, pod = made["spec"], made["spec"]["template"]
    assert made["metadata"]["namespace"] == "tuning"
    assert made["metadata"]["labels"] == {
        "kueue.x-k8s.io/queue-name": "gpus",
        "app.kubernetes.io/managed-by": "ostler-tuner",
        "ostler/job": "ftjob-0123456789abcdef01234567",
        "ostler/adapter": "Support_EN",
    }
    assert (
        made["metadata"]["annotations"].items() >= {"ostler/base": "org/tiny", "ostler/adapter": "Support_EN"}.items()
    )
    limits = ("backoffLimit", "completions", "parallelism", "ttlSecondsAfterFinished", "activeDeadlineSeconds")
    assert [spec[name] for name in limits] == [0, 1, 1, 600, 7200]
    assert pod["metadata"]["labels"]["app.kubernetes.io/component"] == "tuning-job"
    assert pod["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "ostler-tuner"
    assert pod["spec"]["nodeSelector"] == {"accelerator": "h200"}
    (container,) = pod["spec"]["containers"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 1}}
    assert container["env"] == [
        {"name": "OSTLER_BASE", "value": "tiny"},
        {"name": "OSTLER_TUNER_NAME", "value": made["metadata"]["name"]},
    ]


def test_without_a_deadline_there_is_none(tmp_path: Path) -> None:
    """Training takes as long as it takes, unless a setting says otherwise."""
    assert "activeDeadlineSeconds" not in template_of(tmp_path).of(job(), "tuning")["spec"]


def test_a_trainjob_runs_the_same_on_each_machine(tmp_path: Path) -> None:
    """Its pods come from its runtime; the tuner sets what they run."""
    made = template_of(tmp_path, TRAIN_JOB_TEMPLATE, Limits(7200, 600)).of(job(), "tuning")
    assert made["spec"]["runtimeRef"] == {"name": "torch-distributed"}
    assert made["spec"]["activeDeadlineSeconds"] == 7200
    trainer = made["spec"]["trainer"]
    assert (trainer["command"], trainer["args"]) == (["ostler"], ["tuner", "--job", job().id])
    assert trainer["numNodes"] == 2
    assert TrainerV1alpha1TrainJob.from_dict(made).to_dict()["spec"] == made["spec"]  # with nothing that it knows not
    assert trainer["env"][-1] == {"name": "OSTLER_TUNER_NAME", "value": made["metadata"]["name"]}


def test_a_name_follows_from_the_jobs_turn_alone() -> None:
    """The same for everybody who reads the row, another one each time the job waits, and short enough for its pods."""
    now = datetime.now(UTC)
    turns = [
        job(),
        job(attempt=1, claimable_from=now),
        job(attempt=1, claimable_from=now + timedelta(seconds=1)),
        job(attempt=1, state="running", lease_until=now),
        job(id="ftjob-1123456789abcdef01234567"),
        job(id="X_" * 40),
    ]
    names = [naming.object_name(turn) for turn in turns]
    assert len(set(names)) == len(turns)
    assert names == [naming.object_name(TuningJobRow(**turn.model_dump())) for turn in turns]
    assert all(len(f"{name}-node-0-0-x7k2p") <= 63 for name in names)
    assert all(name.replace("-", "").isalnum() and name == name.lower() for name in names)


def test_the_examples_of_the_documentation_are_valid(tmp_path: Path) -> None:
    """They can be taken as they are."""
    page = (ROOT / "docs" / "tuning-on-kubernetes.md").read_text()
    templates = [block.partition("```")[0] for block in page.split("```yaml\n")[1:]]
    kinds = []
    for text in templates:
        made = template_of(tmp_path, text).of(job(), "tuning")
        kinds.append(made["kind"])
        if made["kind"] == "Job":
            kubernetes_validate.validate(made, "1.37", strict=True)
        else:
            assert TrainerV1alpha1TrainJob.from_dict(made).to_dict()["spec"] == made["spec"]
    assert kinds == ["Job", "TrainJob"]


WRONG: dict[str, dict[str, Any]] = {
    "apiVersion and kind must be one of batch/v1 Job, trainer.kubeflow.org/v1alpha1 TrainJob": {"kind": "Pod"},
    "spec is missing": {"spec": None},
    "metadata.name must be left out": {"metadata": {"name": "mine"}},
    "metadata.generateName must be left out": {"metadata": {"generateName": "mine-"}},
    "metadata.namespace must be left out": {"metadata": {"namespace": "other"}},
    "spec.template.spec.containers must have one of the name tuner": {"spec": {"template": {"spec": {}}}},
    r"spec.template.spec.containers\[tuner\].args must be left out": {
        "spec": {"template": {"spec": {"containers": [{"name": "tuner", "args": []}]}}}
    },
    r"spec.template.spec.containers\[tuner\].env must be a list": {
        "spec": {"template": {"spec": {"containers": [{"name": "tuner", "env": {"A": "b"}}]}}}
    },
}


@pytest.mark.parametrize("says", WRONG)
def test_a_wrong_template_is_refused_by_the_name_of_its_field(tmp_path: Path, says: str) -> None:
    """Before anything is made of it."""
    whole = {"apiVersion": "batch/v1", "kind": "Job", "spec": {}} | WRONG[says]
    with pytest.raises(ValueError, match=says):
        template_of(tmp_path, msgspec.json.encode(whole).decode())


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("runtimeRef: {name: torch-distributed}", "spec.runtimeRef.name is missing"),
        ("image: ostler/tuner:0.1.0", "spec.trainer.image is missing"),
    ],
)
def test_a_wrong_trainjob_is_refused(tmp_path: Path, field: str, says: str) -> None:
    """By the name of its field."""
    with pytest.raises(ValueError, match=says):
        template_of(tmp_path, TRAIN_JOB_TEMPLATE.replace(field, ""))


def test_a_template_that_is_not_there_or_no_yaml_is_refused(tmp_path: Path) -> None:
    """Without the path that it was looked for at."""
    limits = Limits(None, 0)
    with pytest.raises(ValueError, match="set OSTLER_TUNER_JOB_TEMPLATE"):
        read_template(None, limits)
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_template(tmp_path / "none.yaml", limits)
    for text in ("a: [", "a: 1\n---\nb: 2\n"):
        with pytest.raises(ValueError, match="must hold one YAML document"):
            template_of(tmp_path, text)
    with pytest.raises(ValueError, match="and are nothing"):
        template_of(tmp_path, "just words")
    assert job(adapter="-ümläut/" * 20).adapter
    assert len(naming.label_value("ümläut/" * 20)) <= 63


def test_a_changed_template_is_another_one(tmp_path: Path) -> None:
    """As is one with other limits, which the objects of before do not have."""
    digests = {
        template_of(tmp_path).digest,
        template_of(tmp_path, JOB_TEMPLATE.replace("0.1.0", "0.1.1")).digest,
        template_of(tmp_path, limits=Limits(60, 3600)).digest,
    }
    assert len(digests) == 3
    assert template_of(tmp_path).digest in digests
