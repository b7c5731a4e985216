"""Dashboards and rules on real traffic: Prometheus scrapes a gateway and a monitor, and every query has an answer."""

import contextlib
import itertools
import math
import re
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import prometheus_client
import pytest

import demo
from agent.metrics import AgentMetrics
from monitors.watch.metrics import MonitorMetrics
from tests.engine.conftest import Up
from tests.helm.chart_metrics import engine_series
from tests.helm.tools import Prometheus, boards, panels, rules, running_prometheus
from tuner.metrics import TunerMetrics

pytestmark = pytest.mark.engine

ADAPTER, SCORER = "support", "feedback"
STABLE, CANARY = "2", "1"
CHOSEN = {
    "$adapter": ADAPTER,
    "$scorer": SCORER,
    "$replica": ".*",
    "$__rate_interval": "10s",
    "$__range": "1m",
}
WITHIN_S = 120.0
TIMES = re.compile("adapter_version_variant:.*_seconds:")
"""The recording rules that have nothing to say of a canary until it has had a stream."""
PANELS = [(name, panel) for name, board in boards().items() for panel in panels(board)]


def chat(http: httpx.Client, model: str, headers: dict[str, str] | None = None, **fields: Any) -> None:
    """One chat request, read to its end, whatever it is."""
    messages = [{"role": "user", "content": demo.EXAMPLE_MESSAGE}]
    body = {"model": model, "messages": messages, "max_tokens": 8, "temperature": 0, **fields}
    http.post("/v1/chat/completions", json=body, headers=headers)


def traffic(up: Up, is_over: threading.Event) -> None:
    """What clients do: answers in one piece, streams, the base model, errors; some of them get the canary."""
    with up.http() as http:
        for turn in itertools.count():
            if is_over.wait(0.1):  # leaves the cores to Prometheus in between
                return
            chat(http, ADAPTER, stream=turn % 2 == 0)
            chat(http, demo.BASE_NAME, stream=turn % 2 == 0)
            if turn % 5 == 0:
                chat(http, "nobody")
                chat(http, ADAPTER, {"x-ostler-timeout-s": "0.02"}, max_tokens=300, ignore_eos=True)  # 504


def found_by_a_monitor() -> MonitorMetrics:
    """What takes a monitor days to find (scores, golden sets, drift, decisions), as its metrics tell it."""
    metrics = MonitorMetrics()
    for version, score in ((STABLE, 0.9), (CANARY, 0.8)):
        labels = (ADAPTER, version, SCORER)
        for gauge, value in (
            (metrics.score, score),
            (metrics.score_low, score - 0.05),
            (metrics.score_high, score + 0.05),
            (metrics.observations, 420),
            (metrics.cusum, 0.1),
            (metrics.alarm, 0),
            (metrics.golden, score),
            (metrics.golden_low, score - 0.1),
            (metrics.golden_high, score + 0.1),
        ):
            gauge.labels(*labels).set(value)
        for against in ("base", "stable"):
            for gauge, value in (
                (metrics.difference, score - 0.5),
                (metrics.difference_low, score - 0.6),
                (metrics.difference_high, score - 0.4),
                (metrics.pairs, 210),
            ):
                gauge.labels(*labels, against).set(value)
        for column in ("prompt_length", "output_length", "prompt_text"):
            metrics.drift.labels(ADAPTER, version, column).set(0.6)
        metrics.drift_detected.labels(ADAPTER, version).set(0)
        metrics.drift_rows.labels(ADAPTER, version).set(200)
        metrics.drift_enough.labels(ADAPTER, version).set(1)
    for gauge, value in ((metrics.golden, 0.5), (metrics.golden_low, 0.4), (metrics.golden_high, 0.6)):
        gauge.labels(ADAPTER, "", SCORER).set(value)
    for variant in ("stable", "base"):
        metrics.cost_per_thousand.labels(ADAPTER, variant).set(0.02)
    metrics.decisions.labels(ADAPTER, "quality", "no_alarm").set(3)
    metrics.loop_phase.labels(ADAPTER, "rolling_out").set(1)
    for finding in ("worse", "not_worse"):
        metrics.loop_evidence.labels(ADAPTER, finding).set(0.3)
    metrics.loop_acts.labels(ADAPTER, "begin_rollout").set(1)
    for gauge in (metrics.loop_paused, metrics.loop_labels, metrics.loop_approval_wait, metrics.loop_pending):
        gauge.labels(ADAPTER).set(0)
    metrics.loop_decided.labels(ADAPTER).set(time.time())
    return metrics


def trained_by_a_tuner() -> TunerMetrics:
    """What a tuner tells while it is at work, for as long as a job takes."""
    metrics = TunerMetrics()
    for gauge, value in (
        (metrics.at_work, 1),
        (metrics.loss, 0.4),
        (metrics.validation_loss, 0.5),
        (metrics.learning_rate, 2e-4),
        (metrics.gradient_norm, 0.8),
        (metrics.tokens_per_second, 900),
        (metrics.memory, 3 << 30),
        (metrics.progress, 0.25),
        (metrics.remaining, 340),
    ):
        gauge.labels(ADAPTER).set(value)
    return metrics


def used_by_an_agent() -> AgentMetrics:
    """What an agent tells beside an engine on another machine."""
    metrics = AgentMetrics()
    for gauge, value in ((metrics.cache_bytes, 6 << 30), (metrics.cache_limit, 10 << 30), (metrics.cached, 40)):
        gauge.set(value)
    metrics.store_reachable.set(1)
    metrics.engine_up.set(1)
    metrics.fetches.inc()
    metrics.fetch_seconds.observe(2)
    return metrics


def work_on(metrics: TunerMetrics, is_over: threading.Event) -> None:
    """Stages that end again and again, as those of many jobs."""
    while not is_over.wait(0.2):
        metrics.steps.inc()
        metrics.stage_seconds.labels("training").observe(30)


@pytest.fixture(scope="module")
def prometheus(up: Up, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus before the running gateway and monitor, with a canary, a shadow and traffic, once all is recorded."""
    findings, thread = prometheus_client.start_http_server(0, "127.0.0.1", found_by_a_monitor().registry)
    training = trained_by_a_tuner()
    tuner, tuner_thread = prometheus_client.start_http_server(0, "127.0.0.1", training.registry)
    agent, agent_thread = prometheus_client.start_http_server(0, "127.0.0.1", used_by_an_agent().registry)
    targets = [
        ("gateway", urlsplit(up.url).netloc),
        ("monitor", urlsplit(up.monitor_url).netloc),
        ("findings", f"127.0.0.1:{findings.server_port}"),
        ("tuner", f"127.0.0.1:{tuner.server_port}"),
        ("ostler-agent", f"127.0.0.1:{agent.server_port}"),
    ]
    is_over = threading.Event()
    clients = [threading.Thread(target=traffic, args=(up, is_over)) for _ in range(2)]
    clients.append(threading.Thread(target=work_on, args=(training, is_over)))
    with contextlib.ExitStack() as stack:
        stack.callback(thread.join)
        stack.callback(findings.shutdown)
        stack.callback(tuner_thread.join)
        stack.callback(tuner.shutdown)
        stack.callback(agent_thread.join)
        stack.callback(agent.shutdown)
        stack.callback(up.cli, "canary", ADAPTER, "--off")
        stack.callback(up.cli, "shadow", ADAPTER, "--off")
        running = stack.enter_context(running_prometheus(tmp_path_factory.mktemp("prometheus"), targets))
        until_up(running, len(targets))
        for command in (("canary", ADAPTER, CANARY, "--weight", "0.5"), ("shadow", ADAPTER, "base", "--share", "0.5")):
            assert up.cli(*command).returncode == 0
        for client in clients:
            stack.callback(client.join)
            client.start()
        stack.callback(is_over.set)
        until_recorded(running)
        yield running


def until_up(prometheus: Prometheus, targets: int) -> None:
    """Wait until every target was scraped."""
    deadline = time.monotonic() + WITHIN_S
    while len(prometheus.query("up == 1")) < targets:
        assert time.monotonic() < deadline, prometheus.query("up")
        time.sleep(0.2)


def until_recorded(prometheus: Prometheus) -> None:
    """Wait until every recording rule has recorded something, of the canary's share of the requests, too."""
    recorded = {rule["record"] for rule in rules("recording.yaml")}
    waiting = recorded | {name + '{variant="canary"}' for name in recorded if TIMES.match(name)}
    deadline = time.monotonic() + WITHIN_S
    while waiting := {name for name in waiting if not prometheus.query(name)}:
        assert time.monotonic() < deadline, f"nothing was recorded as {', '.join(sorted(waiting))}"
        time.sleep(0.5)


def with_choices(text: str) -> str:
    """The text with what Grafana puts in place of variables."""
    for name in sorted(CHOSEN, key=len, reverse=True):
        text = text.replace(name, CHOSEN[name])
    assert "$" not in text
    return text


def values(series: list[dict[str, Any]]) -> list[float]:
    """All values of all series."""
    pairs = [pair for one in series for pair in one.get("values", [one.get("value")])]
    return [float(value) for _, value in pairs]


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=[f"{name}: {panel['title']}" for name, panel in PANELS])
def test_every_panel_shows_data(prometheus: Prometheus, board: str, panel: dict[str, Any]) -> None:
    """Each of its queries succeeds with finite values, and its series have names that tell them apart."""
    names = []
    for target in panel["targets"]:
        expr = with_choices(target["expr"])
        series = prometheus.query(expr) if target["instant"] else prometheus.query_range(expr, 15)
        assert series, f"no data: {expr}"
        assert all(math.isfinite(value) for value in values(series)), expr
        names += [named(target["legendFormat"], one["metric"]) for one in series]
    if panel["type"] != "table":
        assert len(names) == len(set(names)), names
        assert all(names) or len(names) == 1, names


def named(legend: str, labels: dict[str, str]) -> str:
    """What Grafana calls a series."""
    if legend == "__auto":
        return ""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), legend)


@pytest.mark.parametrize("board", boards().values(), ids=boards())
def test_every_choice_and_mark_has_data(prometheus: Prometheus, board: dict[str, Any]) -> None:
    """Grafana fills the variables from series that are there; the change of the deployment is marked."""
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert match
            found = prometheus.ask("series", **{"match[]": with_choices(match[1])})
            assert any(one.get(match[2]) for one in found), variable["name"]
    for annotation in board["annotations"]["list"]:
        marks = prometheus.query_range(with_choices(annotation["target"]["expr"]), 60)
        assert bool(marks) == (annotation["name"] == "Deployment changed")


@pytest.mark.parametrize("name", [rule["record"] for rule in rules("recording.yaml")])
def test_every_recording_rule_records(prometheus: Prometheus, name: str) -> None:
    """Finite values, from real traffic."""
    found = values(prometheus.query(name))
    assert found
    assert all(math.isfinite(value) for value in found)


def test_every_alert_can_be_evaluated(prometheus: Prometheus) -> None:
    """No rule fails on the real series, and what is quiet here is quiet in the alerts."""
    groups = prometheus.ask("rules")["groups"]
    loaded = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert set(loaded) == {
        rule.get("alert") or rule["record"] for rule in rules("alerts.yaml") + rules("recording.yaml")
    }
    assert {name: rule["lastError"] for name, rule in loaded.items() if rule["health"] != "ok"} == {}
    quiet = ("OstlerNoEngineReady", "OstlerNoGateway", "OstlerDatabaseUnreachable", "OstlerNoActiveMonitor")
    assert {name: loaded[name]["state"] for name in quiet} == dict.fromkeys(quiet, "inactive")


def test_the_figures_are_those_of_the_traffic(prometheus: Prometheus, up: Up) -> None:
    """What the dashboards show of requests is what the gateway counted: plain, streamed, canary, shadow, failed."""
    shown = prometheus.query("sum by (variant, status) (ostler_requests_total)")
    kinds = {(one["metric"].get("variant", ""), one["metric"]["status"]) for one in shown}
    assert {("stable", "200"), ("canary", "200"), ("shadow", "200"), ("base", "200"), ("", "404")} <= kinds
    assert any(status == "504" for _, status in kinds), kinds
    (failed,) = values(prometheus.query("ostler:request_errors:rate5m"))
    assert failed > 0


def test_the_engine_has_what_the_chart_scales_it_by(up: Up) -> None:
    """Each series that a trigger of the chart asks for stands in a scrape of the real engine."""
    scrape = httpx.get(f"{up.engine_url}/metrics").text
    there = set(re.findall(r"^(vllm:\w+)", scrape, re.M))
    assert engine_series()
    assert engine_series() <= there, there
