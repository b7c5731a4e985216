"""The chart's dashboards, rules and triggers are those that are checked elsewhere, about series that exist."""

import itertools
import json
import re

import pytest
import yaml  # type: ignore[import-untyped]

from tests.helm.chart import (
    NAMESPACE,
    VALUE_SETS,
    Json,
    Rendered,
    Workload,
    objects_of,
    rendered,
    template,
    value_file,
)
from tests.helm.chart_metrics import custom_metrics, engine_series, metric_names, scaling_queries
from tests.helm.naming_rules import label
from tests.helm.tools import DASHBOARDS, RULES, declared

each_set = pytest.mark.parametrize("value_set", VALUE_SETS)


def test_the_dashboards_are_those_that_were_checked() -> None:
    """Byte for byte, each in a ConfigMap that Grafana's sidecar finds."""
    chart = rendered("everything")
    made = [each for each in chart.of("ConfigMap") if "-dashboard-" in each["metadata"]["name"]]
    found = {name: text for each in made for name, text in each["data"].items()}
    assert found == {f"ostler-{file.name}": file.read_text() for file in DASHBOARDS.glob("*.json")}
    for each in made:
        assert each["metadata"]["labels"]["grafana_dashboard"] == "1", label(each)
        assert len(json.dumps(each)) < 1 << 20, "a ConfigMap takes 1 MiB"


def test_the_rules_are_those_that_were_checked() -> None:
    """Group by group, with the alerts' words untouched by helm's own braces."""
    made = [group for each in rendered("everything").of("PrometheusRule") for group in each["spec"]["groups"]]
    written = [group for file in sorted(RULES.glob("*.yaml")) for group in yaml.safe_load(file.read_text())["groups"]]
    assert sorted(made, key=lambda group: group["name"]) == sorted(written, key=lambda group: group["name"])


def test_alerts_may_be_left_out() -> None:
    """Those that are named, and nothing else."""
    wanted = rules_of(rendered("everything")) - {"OstlerSeveralInstallations", "OstlerTuningJobFailed"}
    choice = "--set=monitoring.rules.without={OstlerSeveralInstallations,OstlerTuningJobFailed}"
    ran = template("4", f"--values={value_file('everything')}", choice)
    assert rules_of(Rendered(objects_of(ran.stdout), {})) == wanted


def rules_of(chart: Rendered) -> set[str]:
    """The names of alerts and recorded series."""
    groups = [group for each in chart.of("PrometheusRule") for group in each["spec"]["groups"]]
    return {rule.get("alert") or rule["record"] for group in groups for rule in group["rules"]}


@each_set
def test_triggers_ask_for_series_that_exist(value_set: str) -> None:
    """Of the engine (the tests on the real one hold their names against its own) or of Ostler."""
    for name in itertools.chain.from_iterable(map(metric_names, scaling_queries(rendered(value_set)))):
        assert name.startswith("vllm:") or name in declared(), f"nobody declares {name}"
    for name in custom_metrics(rendered(value_set)):
        assert name.startswith("vllm:") or name in declared(), f"nobody declares {name}"


def test_engines_are_scaled_by_requests_that_wait() -> None:
    """And by those that run; both are what vLLM says of itself, and the gateway's router reads them, too."""
    assert engine_series() == {"vllm:num_requests_waiting", "vllm:num_requests_running"}


@each_set
def test_a_trigger_asks_for_the_pods_that_it_scales(value_set: str) -> None:
    """A pool's queue must not make another pool grow, nor may one of another namespace."""
    chart = rendered(value_set)
    for each in chart.of("ScaledObject"):
        for trigger in each["spec"]["triggers"]:
            query = trigger["metadata"].get("query", "")
            if "vllm:" in query:
                assert f'namespace="{NAMESPACE}"' in query, f"{label(each)}: {query}"
                name = each["spec"]["scaleTargetRef"]["name"]
                assert [pods.name for pods in asked(chart, query)] == [name], f"{label(each)}: {query}"


def asked(chart: Rendered, query: str) -> list[Workload]:
    """The engines whose pods a query's selector takes."""
    wanted = re.search(r'\bpod=~"([^"]+)"', query)
    assert wanted, query
    engines = [pods for pods in chart.workloads if pods.component == "engine"]
    return [pods for pods in engines if re.fullmatch(wanted[1].replace("\\\\", "\\"), a_pod_of(pods))]


def a_pod_of(pods: Workload) -> str:
    """A name as Kubernetes gives it to a pod."""
    return f"{pods.name}-0" if pods.kind == "StatefulSet" else f"{pods.name}-6d4cf56db6-x7k2p"


@each_set
def test_prometheus_is_asked_where_the_values_say(value_set: str) -> None:
    """Each of KEDA's triggers has an address, a query and a threshold."""
    triggers: list[Json] = [
        trigger["metadata"] for each in rendered(value_set).of("ScaledObject") for trigger in each["spec"]["triggers"]
    ]
    for trigger in triggers:
        if "query" in trigger:
            assert trigger["serverAddress"].startswith(("http://", "https://")), trigger
            assert float(trigger["threshold"]) > 0


@each_set
def test_figures_that_are_lost_scale_nothing(value_set: str) -> None:
    """An empty answer of Prometheus is an error to KEDA, which keeps the number, and not a zero."""
    for each in rendered(value_set).of("ScaledObject"):
        for trigger in each["spec"]["triggers"]:
            assert trigger["metadata"]["ignoreNullValues"] == "false", label(each)
