"""Where rules and dashboards are, Debian's Prometheus to run them in, and what a PromQL expression speaks of."""

import contextlib
import functools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml  # type: ignore[import-untyped]

from agent.metrics import AgentMetrics
from monitors.metrics import Metrics
from monitors.watch.metrics import MonitorMetrics
from tests.ports import free_port
from tuner.metrics import TunerMetrics

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "helm" / "rules"
DASHBOARDS = ROOT / "helm" / "dashboards"
_UNPACKED = ROOT / ".venv" / "prometheus" / "usr" / "bin"
# What Prometheus adds to a series; namespace and release on Kubernetes alone.
_OF_TARGETS = frozenset({"instance", "job", "namespace", "release"})
_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}

Json = dict[str, Any]


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`: what requirements/install.sh unpacked, else what is installed."""
    found = shutil.which(name, path=str(_UNPACKED)) or shutil.which(name)
    assert found is not None, f"{name} is missing: run make test, which gets it"
    return found


def rules(file: str) -> list[Json]:
    """All rules of a file of helm/rules/."""
    return [rule for group in yaml.safe_load((RULES / file).read_text())["groups"] for rule in group["rules"]]


def boards() -> dict[str, Json]:
    """Every dashboard, by the name of its file."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(DASHBOARDS.glob("*.json"))}


def panels(board: Json) -> list[Json]:
    """A dashboard's panels, without the rows' headings."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


@functools.cache
def declared() -> dict[str, frozenset[str]]:
    """Every series that the code declares, that the rules record, and Prometheus' own `up`, each with its labels."""
    found = {"up": _OF_TARGETS}
    ours = (Metrics(), MonitorMetrics(), TunerMetrics(), AgentMetrics())
    for registry in (each.registry for each in ours):
        collectors: set[Any] = set(registry._names_to_collectors.values())
        for collector in collectors:
            kind = collector._type
            labels = set(collector._labelnames)
            for suffix in _SUFFIXES[kind]:
                extra = {"le"} if suffix == "_bucket" else set()
                found[collector._name + suffix] = frozenset(labels | extra | _OF_TARGETS)
    for rule in rules("recording.yaml"):
        level = rule["record"].split(":")[0]
        found[rule["record"]] = frozenset() if level == "ostler" else frozenset(level.split("_"))
    return found


@dataclass(frozen=True)
class References:
    """What an expression speaks of: series with the labels that select them, and the labels that it sums by."""

    selected: tuple[tuple[str, frozenset[str]], ...]
    grouped: frozenset[str]


def references(expr: str) -> References:
    """Take a PromQL expression apart, as far as names go."""
    selected = [
        (match["name"], frozenset(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", match["labels"] or "")))
        for match in re.finditer(
            r"(?P<name>\b(?:\w+:)?ostler\w*(?::\w+)*|\bup\b)(?:\{(?P<labels>[^}]*)\})?", _bare(expr)
        )
    ]
    groups = re.findall(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)", expr)
    labels = {label.strip() for group in groups for label in group.split(",") if label.strip()}
    return References(tuple(selected), frozenset(labels))


def _bare(expr: str) -> str:
    """Without the alerts' own series, and without what stands in strings."""
    return re.sub(r'"[^"]*"', '""', re.sub(r"ALERTS\{[^}]*\}", "0", expr))


@dataclass
class Prometheus:
    """A running Prometheus."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        """Call its API; the answer's data."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=20)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def query(self, expr: str) -> list[Json]:
        """Ask for the newest values; one dict with `metric` and `value` for each series."""
        data = self.ask("query", query=expr)
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        found: list[Json] = data["result"]
        return found

    def query_range(self, expr: str, seconds: int) -> list[Json]:
        """Ask for the values of the last seconds, each second; one dict with `metric` and `values` for each series."""
        now = time.time()
        found: list[Json] = self.ask("query_range", query=expr, start=str(now - seconds), end=str(now), step="1")[
            "result"
        ]
        return found


@contextlib.contextmanager
def running_prometheus(folder: Path, targets: Sequence[tuple[str, str]]) -> Iterator[Prometheus]:
    """Prometheus with our rules, which looks at each (job, host:port) once a second."""
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES / "*.yaml")],
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": [address]}]} for job, address in targets],
    }
    with prometheus_with(settings, folder) as running:
        yield running


@contextlib.contextmanager
def prometheus_with(settings: Json, folder: Path) -> Iterator[Prometheus]:
    """Prometheus with what stands in its configuration file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    port = free_port()
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield _ready(f"http://127.0.0.1:{port}", process, folder)
        finally:
            process.terminate()
            process.wait(20)


def _ready(url: str, process: subprocess.Popen[bytes], folder: Path) -> Prometheus:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url + "/-/ready").status_code == 200:
                return Prometheus(url)
        time.sleep(0.1)
    raise AssertionError("Prometheus is not ready after 30 s")
