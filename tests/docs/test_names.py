"""What the documentation's pages name is there: settings, files, metrics and alerts."""

import re
import tomllib
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from agent.metrics import AgentMetrics
from agent.settings import AgentSettings
from monitors.metrics import Metrics
from monitors.settings import MonitorSettings
from monitors.watch.metrics import MonitorMetrics
from ostler.settings import UpSettings
from tuner.cluster.metrics import ClusterMetrics
from tuner.metrics import TunerMetrics
from tuner.settings import TunerSettings

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
KINDS = (UpSettings, MonitorSettings, TunerSettings, AgentSettings)
VARIABLE = re.compile(r"\bOSTLER_[A-Z0-9_]+")
OTHERS = (ROOT / "compose.yaml", ROOT / "helm" / "files" / "engine_guard.py")  # what is no setting of a process of ours
SETTINGS = {f"OSTLER_{name.upper()}" for kind in KINDS for name in kind.model_fields}
SETTINGS |= {name for file in OTHERS for name in VARIABLE.findall(file.read_text())}
FOLDERS = "agent|benchmarks|demo|deploy|gateway|helm|monitors|ostler|registry|requirements|tests|tuner"
PATHS = re.compile(rf"`((?:{FOLDERS})/[\w./-]*\w\.(?:py|md|json|jsonl|ya?ml|toml|sh|lock))`")


def metrics(registry: CollectorRegistry) -> set[str]:
    """Names as a scrape has them, without a histogram's endings."""
    collectors = set(registry._names_to_collectors.values())
    return {each._name + "_total" * (each._type == "counter") for each in collectors}  # type: ignore[attr-defined]


CLUSTER = CollectorRegistry()
ClusterMetrics(CLUSTER)
OURS = metrics(Metrics().registry) | metrics(MonitorMetrics().registry) | metrics(TunerMetrics().registry)
METRICS = OURS | metrics(CLUSTER) | metrics(AgentMetrics().registry)


def test_every_metric_is_explained() -> None:
    """On the page of metrics; the agent's on its own."""
    text = "".join((ROOT / "docs" / page).read_text() for page in ("metrics.md", "agent.md"))
    named = set(re.findall(r"\bostler_[a-z0-9_]+", text))
    assert METRICS - named == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_metrics_are_metrics(page: Path) -> None:
    """Names that a page says in full, as in a query or a scrape."""
    found = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bostler_[a-z0-9_]+", page.read_text())}
    assert found - METRICS == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_settings_are_settings(page: Path) -> None:
    """Each variable in full; one that ends with `_` or a star stands for several that begin so."""
    for found in re.findall(r"\bOSTLER_[A-Z0-9_]+(?:\*|<)?", page.read_text()):
        name = found.rstrip("*<")
        known = any(each.startswith(name) for each in SETTINGS) if name.endswith("_") else name in SETTINGS
        assert known, f"{page.name}: there is no setting {found}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_are_there(page: Path) -> None:
    """Those of the repository, named by their path."""
    assert [path for path in PATHS.findall(page.read_text()) if not (ROOT / path).exists()] == []


def test_the_newest_schema_is_told() -> None:
    """To whoever upgrades, in the table of versions and at the top of the changelog, which names no other."""
    newest = max(file.name[:4] for file in (ROOT / "registry" / "migrations" / "versions").glob("[0-9]*.py"))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    table = re.findall(r"^\| ([\d.]+) \| (\d{4}) \|$", (ROOT / "docs" / "upgrading.md").read_text(), re.M)
    assert dict(table)[version.rpartition(".")[0]] == newest
    entry = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1]
    assert set(re.findall(r"\b0\d{3}\b", entry)) == {newest}
