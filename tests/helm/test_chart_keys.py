"""Who is given which key: Prometheus' opens the metrics alone, and the migration makes both."""

from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from registry.catalog import Scope
from tests.helm.chart import HELMS, VALUE_SETS, Json, Rendered, rendered, template, value_file

each_set = pytest.mark.parametrize("value_set", VALUE_SETS)


def container(chart: Rendered, name: str) -> Json | None:
    """A container of the migration's pod."""
    found = [each for pods in chart.workloads if pods.component == "migrate" for each in pods.containers]
    return next((each for each in found if each["name"] == name), None)


def secret_of(made: Json, variable: str) -> tuple[str, str]:
    """The Secret and its key that a variable comes from."""
    [found] = [each["valueFrom"]["secretKeyRef"] for each in made["env"] if each["name"] == variable]
    return found["name"], found["key"]


def shown_by_prometheus(chart: Rendered) -> dict[str, tuple[str, str]]:
    """The Secret and its key that each PodMonitor with one shows, by the component that it looks at."""
    found = {}
    for each in chart.of("PodMonitor"):
        for endpoint in each["spec"]["podMetricsEndpoints"]:
            if credentials := endpoint.get("authorization", {}).get("credentials"):
                component = each["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]
                found[component] = (credentials["name"], credentials["key"])
    return found


@each_set
def test_prometheus_shows_gateways_a_key_that_the_migration_makes(value_set: str) -> None:
    """With the scope for metrics and no other, and it is not the admin's."""
    chart = rendered(value_set)
    shown, ensuring = shown_by_prometheus(chart), container(chart, "ensure-metrics-key")
    assert shown.keys() == ({"gateway"} if chart.of("PodMonitor") else set())
    if shown:
        admins = container(chart, "ensure-key")
        assert ensuring is not None
        assert admins is not None
        assert shown["gateway"] == secret_of(ensuring, "METRICS_KEY") != secret_of(admins, "OSTLER_API_KEY")
    if ensuring:
        words: list[Any] = ensuring["args"]
        assert words[:2] == ["keys", "ensure"]
        assert [words[at + 1] for at, word in enumerate(words) if word == "--scope"] == [Scope.METRICS]
        assert "--admin" not in words
        assert "OSTLER_API_KEY" not in [each["name"] for each in ensuring["env"]]


@each_set
def test_the_admins_key_is_made_before_any_other(value_set: str) -> None:
    """Or a secret that is given for both by mistake becomes a key for metrics, which no admin's can be made of."""
    for pods in rendered(value_set).workloads:
        if pods.component == "migrate":
            *first, last = [each["name"] for each in pods.containers]
            with_metrics = ["migrate", "ensure-key"], "ensure-metrics-key"
            assert ([each for each in first if each != "wait-for-database"], last) in (
                with_metrics,
                (["migrate"], "ensure-key"),
            )
            assert [each["name"] for each in pods.spec["containers"]] == [
                last
            ]  # containers of one pod run side by side


def test_a_key_for_metrics_is_generated_where_the_rest_is() -> None:
    """In the embedded Secret, random."""
    chart = rendered("tryout")
    ensuring = container(chart, "ensure-metrics-key")
    assert ensuring is not None
    name, key = secret_of(ensuring, "METRICS_KEY")
    made = chart.named("Secret", name)
    assert made is not None
    assert len(made["stringData"][key]) >= 32
    assert made["stringData"][key] != made["stringData"]["api-key"]


@pytest.mark.parametrize("version", HELMS)
def test_pod_monitors_want_a_key(version: str, tmp_path: Path) -> None:
    """Every gateway would answer 401."""
    wrong = {"monitoring": {"podMonitors": {"enabled": True}}, "metricsKey": {"existingSecret": ""}}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    ran = template(version, f"--values={value_file('gpu-keda')}", f"--values={tmp_path / 'wrong.yaml'}")
    assert ran.returncode != 0
    assert "metricsKey.existingSecret: must be set" in ran.stderr
