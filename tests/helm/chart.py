"""The chart as both helms render it: its value sets, its objects, and the pods that these would run."""

import functools
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm"
HELMS = {version: ROOT / ".venv" / "helm" / version / "helm" for version in ("3", "4")}
VALUE_SETS = sorted(file.stem for file in (CHART / "ci").glob("*.yaml"))
# As long as helm lets a release's name be: names cut short must not meet.
LONG_RELEASE = "a-release-whose-name-is-as-long-as-helm-allows-it-123"
RELEASE, NAMESPACE = "prod", "serving"
KUBERNETES = ("1.27", "1.30", "1.37")
API_VERSIONS = ("gateway.networking.k8s.io/v1", "keda.sh/v1alpha1", "monitoring.coreos.com/v1")
CONTROLLERS = ("Deployment", "StatefulSet", "Job", "CronJob", "Pod")
# What stays up until it is told to stop.
LONG_RUNNING = ("Deployment", "StatefulSet")

Json = dict[str, Any]


def helm(version: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a helm; it never reaches a cluster."""
    program = HELMS[version]
    assert program.exists(), f"{program} is missing: run make test, which gets it"
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def template(version: str, *arguments: str | Path, release: str = RELEASE) -> subprocess.CompletedProcess[str]:
    """`helm template` of the chart for a cluster that knows every kind."""
    known = [f"--api-versions={each}" for each in API_VERSIONS]
    return helm(version, "template", release, CHART, f"--namespace={NAMESPACE}", *known, *arguments)


def value_file(value_set: str) -> Path:
    """The file of a value set."""
    return CHART / "ci" / f"{value_set}.yaml"


@functools.cache
def values(value_set: str) -> Json:
    """A value set over the chart's own values, as helm merges them."""
    own = yaml.safe_load((CHART / "values.yaml").read_text())
    return merged(own, yaml.safe_load(value_file(value_set).read_text()) or {})


def merged(under: Json, over: Mapping[str, Any]) -> Json:
    """Maps merge key by key, anything else is replaced, and null takes a key away."""
    found = dict(under)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(found.get(key), dict):
            found[key] = merged(found[key], value)
        else:
            found[key] = value
    return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True)
class Workload:
    """Pods that a controller of the chart makes, by their template."""

    kind: str
    name: str
    owner: Json
    template: Json

    def __str__(self) -> str:
        """As messages call it."""
        return f"{self.kind}/{self.name}"

    @property
    def labels(self) -> dict[str, str]:
        """The pods' labels."""
        found: dict[str, str] = self.template["metadata"].get("labels") or {}
        return found

    @property
    def component(self) -> str:
        """Which part of Ostler it is."""
        return self.labels.get("app.kubernetes.io/component", "")

    @property
    def spec(self) -> Json:
        """The pods' specification."""
        found: Json = self.template["spec"]
        return found

    @property
    def containers(self) -> list[Json]:
        """Every container, those that only begin included."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def long_running(self) -> list[Json]:
        """The containers that stay up: sidecars are among the first ones."""
        if self.kind not in LONG_RUNNING:
            return []
        sidecars = [each for each in self.spec.get("initContainers", []) if each.get("restartPolicy") == "Always"]
        return [*sidecars, *self.spec["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        """The named ports of all its containers that stay up."""
        return {port["name"]: port["containerPort"] for each in self.containers for port in each.get("ports", [])}

    @property
    def fewest(self) -> int:
        """The replicas that it has without an autoscaler."""
        replicas: int = self.owner["spec"].get("replicas", 1)
        return replicas


@dataclass(frozen=True)
class Rendered:
    """What one `helm template` gives."""

    objects: tuple[Json, ...]
    values: Json

    def of(self, *kinds: str) -> list[Json]:
        """The objects of these kinds."""
        return [each for each in self.objects if each["kind"] in kinds]

    def named(self, kind: str, name: str) -> Json | None:
        """One object; None if there is none."""
        return next((each for each in self.of(kind) if each["metadata"]["name"] == name), None)

    @functools.cached_property
    def policies(self) -> tuple[Json, ...]:
        """What the NetworkPolicies say."""
        return tuple(each["spec"] for each in self.of("NetworkPolicy"))

    @functools.cached_property
    def workloads(self) -> tuple[Workload, ...]:
        """Everything that becomes pods, tuning jobs by their template included."""
        return tuple(_workload(each) for each in (*self.of(*CONTROLLERS), *self.job_templates))

    @functools.cached_property
    def job_templates(self) -> tuple[Json, ...]:
        """The objects that the tuner's dispatcher makes, as they stand in its ConfigMap."""
        maps = [each.get("data") or {} for each in self.of("ConfigMap")]
        return tuple(yaml.safe_load(data["job.yaml"]) for data in maps if "job.yaml" in data)

    def selected(self, selector: Mapping[str, str]) -> list[Workload]:
        """The workloads whose pods have all these labels."""
        return [each for each in self.workloads if selector.items() <= each.labels.items()]


def _workload(owner: Json) -> Workload:
    kind, spec = owner["kind"], owner["spec"]
    if kind == "Pod":
        pod: Json = {"metadata": owner["metadata"], "spec": spec}
    elif kind == "TrainJob":
        pod = _train_job_pod(spec)
    else:
        pod = (spec["jobTemplate"]["spec"] if kind == "CronJob" else spec)["template"]
    return Workload(kind, owner["metadata"].get("name", "tuning-job"), owner, pod)


def _train_job_pod(spec: Json) -> Json:
    """The pods that Kubeflow's Trainer makes: those of its runtime, as far as the TrainJob patches them."""
    trainer, (patch,) = spec["trainer"], spec["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod: Json = node["template"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    own = {"name": "tuner", "image": trainer["image"], "env": trainer["env"], "resources": trainer["resourcesPerNode"]}
    return {**pod, "spec": {"automountServiceAccountToken": False, **pod["spec"], "containers": [{**container, **own}]}}


@functools.cache
def rendered(
    value_set: str, helm_version: str = "4", kubernetes: str = KUBERNETES[-1], release: str = RELEASE
) -> Rendered:
    """A value set's objects; once for each way to ask."""
    arguments = (f"--values={value_file(value_set)}", f"--kube-version={kubernetes}.0")
    ran = template(helm_version, *arguments, release=release)
    assert ran.returncode == 0, ran.stderr
    return Rendered(objects_of(ran.stdout), values(value_set))


def objects_of(text: str) -> tuple[Json, ...]:
    """The objects of a YAML stream."""
    return tuple(each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each)


def scalars(tree: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value that is no map and no list, with its path."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from scalars(value, (*path, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from scalars(value, (*path, index))
    else:
        yield path, tree
