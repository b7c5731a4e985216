"""The rules: valid, about metrics that exist, each alert tried both ways and told in a runbook."""

import functools
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.helm.chart import rendered
from tests.helm.tools import ROOT, RULES, boards, declared, panels, program, references, rules

ALERT_TESTS = Path(__file__).parent / "alerts"
ALERTS = {rule["alert"]: rule for rule in rules("alerts.yaml")}
EVERY_RULE = [*rules("recording.yaml"), *ALERTS.values()]


@functools.cache
def alert_tests() -> list[dict[str, Any]]:
    """Every `alert_rule_test` of every file."""
    files = [yaml.safe_load(file.read_text()) for file in sorted(ALERT_TESTS.glob("*.yaml"))]
    return [each for file in files for test in file["tests"] for each in test["alert_rule_test"]]


def test_the_rules_are_valid() -> None:
    """Prometheus' own tool takes them."""
    files = [str(file) for file in sorted(RULES.glob("*.yaml"))]
    ran = subprocess.run([program("promtool"), "check", "rules", *files], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("file", sorted(ALERT_TESTS.glob("*.yaml")), ids=lambda file: file.stem)
def test_alerts_fire_when_they_should_and_only_then(file: Path) -> None:
    """As written in the files of `alerts/`, with what they say to people."""
    ran = subprocess.run([program("promtool"), "test", "rules", file], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_tried_both_ways(alert: str) -> None:
    """One case in which it fires, and one in which it does not."""
    own = [test for test in alert_tests() if test["alertname"] == alert]
    assert any(test["exp_alerts"] for test in own), "no case in which it fires"
    assert any(not test["exp_alerts"] for test in own), "no case in which it does not fire"


def test_no_test_is_of_an_alert_that_is_gone() -> None:
    """A renamed alert would else look tested."""
    assert {test["alertname"] for test in alert_tests()} == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_tells_a_person_what_to_do(alert: str) -> None:
    """How bad it is, what it is about, and where in the runbooks to read on."""
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^##+ (.+)$", (ROOT / page).read_text(), re.M)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
    assert anchor == alert.lower()


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_speak_of_series_that_exist(rule: dict[str, Any]) -> None:
    """Every name is declared in the code or recorded, with labels that it has."""
    known = declared()
    found = references(rule["expr"])
    assert found.selected
    for name, labels in found.selected:
        assert name in known, f"nobody declares {name}"
        assert labels <= known[name], f"{name} has no label {', '.join(labels - known[name])}"
    assert found.grouped <= frozenset().union(*(known[name] for name, _ in found.selected))


def test_jobs_that_rules_and_panels_name_are_compose_and_the_charts() -> None:
    """A process that never answered is known by its job alone."""
    compose = yaml.safe_load((ROOT / "deploy" / "compose" / "prometheus.yml").read_text())["scrape_configs"]
    chart = {
        relabeling["replacement"]
        for monitor in rendered("everything").of("PodMonitor")
        for endpoint in monitor["spec"]["podMetricsEndpoints"]
        for relabeling in endpoint["relabelings"]
        if relabeling["targetLabel"] == "job"
    }
    expressions = [rule["expr"] for rule in EVERY_RULE]
    expressions += [
        target["expr"] for board in boards().values() for each in panels(board) for target in each["targets"]
    ]
    named = {job for expr in expressions for job in re.findall(r'\bjob="([^"]+)"', expr)}
    assert named
    assert named <= {each["job_name"] for each in compose} & chart


@pytest.mark.parametrize("rule", rules("recording.yaml"), ids=lambda rule: rule["record"])
def test_a_recorded_series_says_its_labels_in_its_name(rule: dict[str, Any]) -> None:
    """LEVEL:METRIC:OPERATION, where the level is what the expression leaves."""
    level, _, operation = rule["record"].split(":")
    assert operation
    labels = set() if level == "ostler" else set(level.split("_"))
    grouped = references(rule["expr"]).grouped
    assert not grouped or labels == grouped - {"le"}
