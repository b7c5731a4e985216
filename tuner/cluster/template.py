"""The object that a tuning job becomes in the cluster, made of a file that the operator wrote: a Job or a TrainJob."""

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from registry.artifacts import canonical_json
from registry.tuning.tables import TuningJobRow
from tuner.cluster import naming
from tuner.cluster.api import JOB, TRAIN_JOB, Kind, Object

CONTAINER = "tuner"
"""The container of a Job's pod that does the tuning."""
TRAINER_CONTAINER = "node"
"""The same of a TrainJob's, as its runtimes call it."""
_KINDS = {f"{kind.group}/{kind.version} {kind.name}": kind for kind in (JOB, TRAIN_JOB)}
_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """What the settings say of an object's life, seconds: its deadline, None for none, and how long it stays ended."""

    deadline_s: int | None
    ttl_s: int


@dataclass(frozen=True, slots=True)
class Template:
    """What each job's object is made of.

    Attributes:
        body: the operator's.
        digest: tells it from other templates.
    """

    kind: Kind
    body: Object
    limits: Limits
    digest: str

    @property
    def container(self) -> str:
        """The name of the container that does the tuning."""
        return CONTAINER if self.kind == JOB else TRAINER_CONTAINER

    @property
    def pods(self) -> str:
        """The selector of the objects' pods."""
        return naming.SELECTOR if self.kind == JOB else naming.JOB_SET

    def of(self, job: TuningJobRow, namespace: str) -> Object:
        """The object of a job that waits, in this turn."""
        body = copy.deepcopy(self.body)
        name, labels = naming.object_name(job), self._labels(job)
        metadata = body.setdefault("metadata", {})
        metadata |= {"name": name, "namespace": namespace}
        metadata["labels"] = (metadata.get("labels") or {}) | labels
        metadata["annotations"] = (metadata.get("annotations") or {}) | self._annotations(job)
        spec = body["spec"]
        if self.limits.deadline_s is not None:
            spec["activeDeadlineSeconds"] = self.limits.deadline_s
        if self.kind == JOB:
            _fill_job(spec, job.id, name, labels, self.limits.ttl_s)
        else:
            _fill_train_job(spec, job.id, name)
        return body

    def _labels(self, job: TuningJobRow) -> dict[str, str]:
        return {
            naming.MANAGED_BY: naming.MANAGER,
            naming.JOB: naming.label_value(job.id),
            naming.ADAPTER: naming.label_value(job.adapter),
        }

    def _annotations(self, job: TuningJobRow) -> dict[str, str]:
        return {
            naming.JOB: job.id,
            naming.ADAPTER: job.adapter,
            naming.BASE: job.base,
            naming.TEMPLATE: self.digest,
        }


def read_template(file: Path | None, limits: Limits) -> Template:
    """The template in a file.

    Raises:
        ValueError: it cannot be used; the message names the field.
    """
    if file is None:
        raise ValueError(
            "the kubernetes backend needs the Job that a tuning job becomes: set OSTLER_TUNER_JOB_TEMPLATE"
        )
    try:
        body = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ValueError(f"OSTLER_TUNER_JOB_TEMPLATE cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ValueError("OSTLER_TUNER_JOB_TEMPLATE must hold one YAML document") from None
    kind = _kind_of(body)
    _check_metadata(body.get("metadata") or {})
    (_check_job if kind == JOB else _check_train_job)(body)
    seen = canonical_json([body, limits.deadline_s, limits.ttl_s])
    return Template(kind, body, limits, hashlib.sha256(seen).hexdigest()[:_DIGITS])


def _fill_job(spec: Object, job_id: str, name: str, labels: dict[str, str], ttl_s: int) -> None:
    """One pod, tried once: what is tried again is another object, as the job's row says."""
    spec |= {"backoffLimit": 0, "completions": 1, "parallelism": 1, "ttlSecondsAfterFinished": ttl_s}
    pod = spec["template"]
    metadata = pod.setdefault("metadata", {})
    metadata["labels"] = (metadata.get("labels") or {}) | labels
    pod["spec"]["restartPolicy"] = "Never"
    container = _container(pod["spec"])
    assert container is not None
    container["args"] = _arguments(job_id)
    container["env"] = _environment(container, name)


def _fill_train_job(spec: Object, job_id: str, name: str) -> None:
    trainer = spec["trainer"]
    trainer |= {"command": ["ostler"], "args": _arguments(job_id)}
    trainer["env"] = _environment(trainer, name)


def _arguments(job_id: str) -> list[str]:
    return ["tuner", "--job", job_id]


def _environment(container: Object, name: str) -> list[Object]:
    """The container's variables, with the name by which its tuner is known."""
    others = [each for each in container.get("env") or [] if each.get("name") != "OSTLER_TUNER_NAME"]
    return [*others, {"name": "OSTLER_TUNER_NAME", "value": name}]


def _container(pod: Object) -> Object | None:
    found = pod.get("containers")
    containers: list[Object] = found if isinstance(found, list) else []
    return next((each for each in containers if isinstance(each, dict) and each.get("name") == CONTAINER), None)


def _kind_of(body: Any) -> Kind:
    said = f"{body.get('apiVersion')} {body.get('kind')}" if isinstance(body, dict) else "nothing"
    if said not in _KINDS:
        raise _wrong("apiVersion and kind", f"must be one of {', '.join(_KINDS)}, and are {said}")
    if not isinstance(body.get("spec"), dict):
        raise _wrong("spec", "is missing")
    return _KINDS[said]


def _check_metadata(metadata: Any) -> None:
    for field in ("name", "generateName", "namespace"):
        if field in metadata:
            raise _wrong(f"metadata.{field}", "must be left out: the tuner sets it for each job")


def _check_job(body: Object) -> None:
    pod = (body["spec"].get("template") or {}).get("spec")
    container = _container(pod) if isinstance(pod, dict) else None
    if container is None:
        raise _wrong("spec.template.spec.containers", f"must have one of the name {CONTAINER}")
    _check_command(container, f"spec.template.spec.containers[{CONTAINER}]")


def _check_train_job(body: Object) -> None:
    trainer = body["spec"].get("trainer")
    if not (body["spec"].get("runtimeRef") or {}).get("name"):
        raise _wrong("spec.runtimeRef.name", "is missing: it is the training runtime, such as torch-distributed")
    if not isinstance(trainer, dict) or not trainer.get("image"):
        raise _wrong("spec.trainer.image", "is missing: it is the tuner's image")
    _check_command(trainer, "spec.trainer")


def _check_command(container: Object, where: str) -> None:
    for field in ("command", "args"):
        if field in container:
            raise _wrong(f"{where}.{field}", "must be left out: the tuner sets what the container runs")
    if not isinstance(container.get("env") or [], list):
        raise _wrong(f"{where}.env", "must be a list of variables")


def _wrong(field: str, why: str) -> ValueError:
    return ValueError(f"OSTLER_TUNER_JOB_TEMPLATE: {field} {why}")
