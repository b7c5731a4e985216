"""Many renders of the chart at the price of few: an umbrella chart that has it many times under other names."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from tests.helm.chart import API_VERSIONS, CHART, KUBERNETES, NAMESPACE, RELEASE, Json, helm

# What a trial does without: the checks of values, as it sets impossible ones, and files that no value changes.
_LEFT_OUT = ("ci", "source", "README.md", "__pycache__", "values.schema.json", "validate.yaml")


def renders(folder: Path, trials: Mapping[str, Json]) -> dict[str, str]:
    """What the chart renders with each set of values, by the trial's name; a trial that fails is missing.

    Names are of the letters that helm takes for an alias. Each render calls the chart `ostler`, and is without what
    differs from render to render: random passwords, and the checksums of configurations.
    """
    _copy_chart(folder / "charts" / "ostler")
    remaining = dict(trials)
    while remaining:
        _write_umbrella(folder, remaining)
        known = [f"--api-versions={each}" for each in API_VERSIONS]
        place = (f"--namespace={NAMESPACE}", f"--kube-version={KUBERNETES[-1]}.0")
        ran = helm("4", "template", RELEASE, folder, *place, *known)
        if ran.returncode == 0:
            return _apart(ran.stdout, remaining)
        failed = set(re.findall(r"umbrella/charts/(\w+)/", ran.stderr)) & remaining.keys()
        assert failed, ran.stderr
        remaining = {name: values for name, values in remaining.items() if name not in failed}
    return {}


def _copy_chart(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(CHART, folder, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    for file in (folder / "dashboards").glob("*.json"):
        file.write_text("{}")


def _write_umbrella(folder: Path, trials: Mapping[str, Json]) -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    wanted = [{"name": chart["name"], "version": chart["version"], "alias": name} for name in trials]
    umbrella = {"apiVersion": "v2", "name": "umbrella", "version": "1.0.0", "dependencies": wanted}
    (folder / "Chart.yaml").write_text(yaml.safe_dump(umbrella))
    (folder / "values.yaml").write_text(yaml.safe_dump(dict(trials)))


def _apart(text: str, trials: Mapping[str, Json]) -> dict[str, str]:
    found: dict[str, list[str]] = {name: [] for name in trials}
    for document in re.split(r"^---\n", text, flags=re.M):
        source = re.match(r"# Source: umbrella/charts/(\w+)/", document)
        if source and not re.search(r"^kind: Secret$", document, re.M):
            plain = re.sub(r"checksum/.*", "", document).replace(source[1], "ostler")
            found[source[1]].append(plain)
    return {name: "".join(documents) for name, documents in found.items()}
