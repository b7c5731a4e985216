"""Metrics: their names, what a request counts, and one sum over several processes."""

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.parser import text_string_to_metric_families

import monitors.metrics
from monitors.metrics import Metrics, mark_process_dead
from monitors.record import RequestRecord
from registry.catalog import Adapter, Canary, Deployment
from tests.monitors.conftest import count
from tests.monitors.records import record

ROOT = Path(__file__).resolve().parents[2]
UNITS = {"counter": "", "histogram": "_seconds", "gauge": ""}
SUPPORT = {"adapter": "support", "version": "2", "variant": "stable"}


def test_names_follow_prometheus_conventions() -> None:
    """Prefix, unit, suffix and help, and no label that grows with users."""
    families = list(Metrics().registry.collect())
    assert len(families) == len({family.name for family in families}) > 25
    for family in families:
        assert re.fullmatch(r"ostler(_[a-z]+)+", family.name), family.name
        assert family.name.endswith(UNITS[family.type])
        assert not re.search(r"_(total|count|sum|bucket|milliseconds|ms)$", family.name)
        assert family.documentation[0].isupper() or family.documentation[0] == "1"
        assert family.documentation.endswith((".", "1."))


def test_labels_are_bounded() -> None:
    """Never keys, users, sessions or requests."""
    metrics = Metrics()
    declared = {label for metric in vars(metrics).values() for label in getattr(metric, "_labelnames", ())}
    of_versions = {"adapter", "version", "variant", "status", "gen_ai_token_type", "error_type"}
    assert declared == of_versions | {"replica", "reason", "outcome", "action"}


def test_a_request_is_counted_in_every_metric_of_requests() -> None:
    """With its tokens, its cost, and its times."""
    metrics = Metrics()
    metrics(record())
    metrics(record(status=499, cost=None, queue_s=0.0, first_byte_s=None, completion_tokens=None))
    own = metrics.registry
    assert count(own, "ostler_requests_total", **SUPPORT, status="200") == 1
    assert count(own, "ostler_requests_total", **SUPPORT, status="499") == 1
    assert count(own, "ostler_request_duration_seconds_count", **SUPPORT) == 2
    assert count(own, "ostler_time_to_first_token_seconds_count", **SUPPORT) == 1
    assert count(own, "ostler_tokens_total", **SUPPORT, gen_ai_token_type="input") == 20
    assert count(own, "ostler_tokens_total", **SUPPORT, gen_ai_token_type="output") == 5
    assert count(own, "ostler_cost_total", **SUPPORT) == 0.5
    assert count(own, "ostler_queue_seconds_count") == 1
    assert count(own, "ostler_queue_seconds_sum") == 0.25
    assert count(own, "ostler_gateway_overhead_seconds_count") == 0


def test_the_times_of_tokens_are_those_of_streams() -> None:
    """The first of each stream, and each further one of those that ended well; whole answers have neither."""
    metrics = Metrics()
    metrics(record(duration_s=2.1, first_byte_s=0.1, completion_tokens=5))
    metrics(record(streamed=False))
    metrics(record(completion_tokens=1))
    metrics(record(completion_tokens=None))
    metrics(record(error="client_gone"))
    own = metrics.registry
    assert count(own, "ostler_time_to_first_token_seconds_count", **SUPPORT) == 4
    assert count(own, "ostler_time_to_first_token_seconds_sum", **SUPPORT) == pytest.approx(0.4)
    assert count(own, "ostler_time_per_output_token_seconds_count", **SUPPORT) == 1
    assert count(own, "ostler_time_per_output_token_seconds_sum", **SUPPORT) == pytest.approx(0.5)


def test_the_gateways_own_time_is_told_finely() -> None:
    """From a tenth of a millisecond on; a shadow has none."""
    metrics = Metrics()
    for overhead_s in (0.00005, 0.0003, None):
        metrics(record(overhead_s=overhead_s))
    assert count(metrics.registry, "ostler_gateway_overhead_seconds_bucket", le="0.0001") == 1
    assert count(metrics.registry, "ostler_gateway_overhead_seconds_bucket", le="0.0004") == 2
    assert count(metrics.registry, "ostler_gateway_overhead_seconds_count") == 2


BOUNDS = (0.0001, 0.025, 0.1, 0.5, 1.0, 60.0, 300.0)
"""Of buckets; what lies on one counts below it."""
SECONDS = st.sampled_from(BOUNDS) | st.floats(0, 400)
RECORDS = st.builds(
    record,
    adapter=st.sampled_from([None, "support", "billing"]),
    version=st.sampled_from([None, 2]),
    status=st.sampled_from([200, 502]),
    error=st.sampled_from([None, "engine_error"]),
    duration_s=SECONDS,
    first_byte_s=st.none() | SECONDS,
    overhead_s=st.none() | SECONDS,
    streamed=st.booleans(),
    prompt_tokens=st.none() | st.integers(0, 9000),
    completion_tokens=st.none() | st.integers(0, 9000),
    cost=st.none() | st.floats(0, 9),
)


def of_the_library(patch: pytest.MonkeyPatch) -> Metrics:
    """Metrics in which the library counts requests, too."""

    def counter(name: str, help: str, labels: Sequence[str], registry: CollectorRegistry) -> Counter:
        return Counter(name, help, labels, registry=registry)

    def histogram(
        name: str, help: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry
    ) -> Any:
        made = Histogram(name, help, labels, buckets=bounds, registry=registry)
        return made if labels else SimpleNamespace(labels=lambda: made)

    patch.setattr(monitors.metrics, "Counters", counter)
    patch.setattr(monitors.metrics, "Histograms", histogram)
    return Metrics()


@given(records=st.lists(RECORDS, max_size=20))
def test_what_requests_count_is_told_as_the_library_would(records: list[RequestRecord]) -> None:
    """To the byte."""
    own = Metrics()
    with pytest.MonkeyPatch.context() as patch:
        librarys = of_the_library(patch)
    for each in records:
        for metrics in (own, librarys):
            metrics(each)
            metrics.looked_up("support", is_hit=each.streamed)
    assert own.exposition() == librarys.exposition()


def adapter(name: str, deployment: Deployment | None) -> Adapter:
    """An adapter of which only the deployment is looked at."""
    return Adapter(name, "tiny", datetime.now(UTC), {}, deployment)


def weight(metrics: Metrics, version: str, variant: str) -> float | None:
    """The share of the sessions that a version gets; None if it is not told."""
    labels = {"adapter": "support", "version": version, "variant": variant}
    return metrics.registry.get_sample_value("ostler_deployment_weight", labels)


def test_deployments_are_told_and_forgotten() -> None:
    """Their revision, and what share each version gets; what none points at any more is gone."""
    metrics = Metrics()
    metrics.show_deployments([adapter("support", Deployment(3, 1, canary=Canary(2, 0.25))), adapter("new", None)])
    assert count(metrics.registry, "ostler_deployment_revision", adapter="support") == 3
    assert (weight(metrics, "1", "stable"), weight(metrics, "2", "canary")) == (0.75, 0.25)
    assert 'adapter="new"' not in metrics.exposition().decode()
    metrics.show_deployments([adapter("support", Deployment(4, 2))])
    assert count(metrics.registry, "ostler_deployment_revision", adapter="support") == 4
    assert (weight(metrics, "2", "stable"), weight(metrics, "1", "stable"), weight(metrics, "2", "canary")) == (
        1,
        None,
        None,
    )
    metrics.show_deployments([])
    assert metrics.registry.get_sample_value("ostler_deployment_revision", {"adapter": "support"}) is None
    assert weight(metrics, "2", "stable") is None


def test_requests_count_in_series_of_their_own() -> None:
    """Each adapter, version, variant and status, however the requests mix."""
    metrics = Metrics()
    kinds: list[dict[str, Any]] = [
        {"adapter": "a"},
        {"adapter": "b"},
        {"version": 3},
        {"variant": "canary"},
        {"status": 502},
    ]
    for times, fields in enumerate(kinds * 2):
        metrics(record(**fields, duration_s=float(times)))
    for times, fields in enumerate(kinds):
        labels = {**SUPPORT, "status": "200"} | {name: str(value) for name, value in fields.items()}
        assert count(metrics.registry, "ostler_requests_total", **labels) == 2, fields
        of_variant = {name: value for name, value in labels.items() if name != "status"}
        assert count(metrics.registry, "ostler_request_duration_seconds_sum", **of_variant) == 5 + 2 * times, fields


def test_streams_that_broke_are_counted_by_reason() -> None:
    """Their status is 200, so no other metric shows them; answers in one piece and streams that ended well are not."""
    metrics = Metrics()
    metrics(record())
    metrics(record(error="engine_error", status=502, streamed=False))
    metrics(record(error="engine_error"))
    metrics(record(error="engine_error"))
    metrics(record(error="deadline_exceeded"))
    broken = "ostler_streams_broken_total"
    assert count(metrics.registry, broken, **SUPPORT, error_type="engine_error") == 2
    assert count(metrics.registry, broken, **SUPPORT, error_type="deadline_exceeded") == 1
    assert metrics.exposition().decode().count(broken + "{") == 2


def test_a_forgotten_version_is_gone_and_others_stay() -> None:
    """It counts from nothing should it serve again."""
    metrics = Metrics()
    for fields in ({}, {"status": 502, "error": "engine_error"}, {"version": 3}, {"adapter": "billing"}):
        metrics(record(**fields))
    metrics.version_breaker.labels("support", "2").set(1)
    metrics.forget_version("support", 2)
    metrics(record(version=3))
    told = metrics.exposition().decode()
    assert not re.search('adapter="support".*version="2"', told)
    assert count(metrics.registry, "ostler_requests_total", **{**SUPPORT, "version": "3"}, status="200") == 2
    assert 'adapter="billing"' in told
    metrics(record())
    assert count(metrics.registry, "ostler_requests_total", **SUPPORT, status="200") == 1


def test_a_request_that_reached_nothing_has_empty_labels() -> None:
    """So that sums over all requests are right."""
    metrics = Metrics()
    metrics(record(adapter=None, version=None, variant=None, status=404))
    assert count(metrics.registry, "ostler_requests_total", adapter="", version="", variant="", status="404") == 1


def test_a_forgotten_replica_is_gone_and_others_stay() -> None:
    """From gauges, histograms and counters alike."""
    metrics = Metrics()
    for replica in ("r0", "r1"):
        metrics.engine_ready.labels(replica).set(1)
        metrics.loads.labels(replica).observe(0.1)
        metrics.unloads.labels(replica, "drained").inc()
    metrics.forget_replica("r0")
    told = metrics.exposition().decode()
    assert 'replica="r0"' not in told
    assert told.count('replica="r1"') > 3


def test_a_dead_process_is_nothing_to_a_gateway_of_one() -> None:
    """Without the folder of several processes there is nothing to clean."""
    mark_process_dead(1)


WORKER = """
import json
import sys
from datetime import UTC, datetime
import monitors.exposition
import monitors.metrics
from monitors.metrics import Metrics, mark_process_dead
from registry.catalog import Adapter, Canary, Deployment
from tests.monitors.records import record
monitors.exposition._FRESH_S = 0.0
metrics, number = Metrics(), int(sys.argv[1])
for _ in range(number):
    metrics(record())
    metrics.in_flight.inc()
metrics.replica_running.labels("r0").set(number)
metrics.replica_breaker.labels("r0").set(number % 2)
metrics.version_breaker.labels("support", "2").set(1)
metrics.database_reachable.set(number % 2)
metrics.publish()
print("ready", flush=True)
for line in sys.stdin:
    word, _, argument = line.strip().partition(" ")
    if word == "forget":
        metrics.forget_replica(argument)
    if word == "archive":
        metrics.forget_version("support", 2)
    if word == "deploy":
        revision, stable, canary, share = argument.split()
        deployment = Deployment(int(revision), int(stable), canary=Canary(int(canary), float(share)))
        metrics.show_deployments([Adapter("support", "tiny", datetime.now(UTC), {}, deployment)])
    if word == "count":
        metrics(record(**json.loads(argument)))
    if word == "publish":
        metrics.publish()
    if word == "dead":
        mark_process_dead(int(argument))
    sys.stdout.write(metrics.exposition().decode() + "END\\n")
    sys.stdout.flush()
"""


def samples(exposition: str) -> dict[str, float]:
    """The values by name and labels."""
    found = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


class Worker:
    """A process of its own with metrics, which has counted `number` requests."""

    def __init__(self, folder: Path, number: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(number)],
            cwd=ROOT,
            env={"PROMETHEUS_MULTIPROC_DIR": str(folder), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def tell(self, order: str = "tell") -> dict[str, float]:
        """Have it do something; the samples that it then exposes, by name and labels."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return samples("".join(iter(self.process.stdout.readline, "END\n")))

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[tuple[Worker, Worker]]:
    """Two processes of one gateway: the first has counted 2 requests, the second 3."""
    pair = (Worker(tmp_path, 2), Worker(tmp_path, 3))
    yield pair
    for worker in pair:
        worker.end()


LABELS = "adapter=support,variant=stable,version=2"


def test_each_process_tells_the_numbers_of_all(workers: tuple[Worker, Worker]) -> None:
    """Counters, histograms and gauges, each merged as its meaning asks."""
    for worker in workers:
        told = worker.tell()
        assert told["ostler_requests_total{adapter=support,status=200,variant=stable,version=2}"] == 5
        assert told[f"ostler_request_duration_seconds_count{{{LABELS}}}"] == 5
        assert told[f"ostler_cost_total{{{LABELS}}}"] == 2.5
        assert told["ostler_requests_in_flight{}"] == 5
        assert told["ostler_replica_running{replica=r0}"] == 3  # the newest look
        assert told["ostler_replica_breaker_open{replica=r0}"] == 1  # open in one of them
        assert told["ostler_database_reachable{}"] == 0  # not reached by one of them
        assert not [name for name in told if "pid=" in name]


def test_a_dead_process_keeps_its_counts_and_loses_its_gauges(workers: tuple[Worker, Worker]) -> None:
    """What it served was served; what it had in flight is not in flight."""
    first, second = workers
    second.end()
    told = first.tell(f"dead {second.process.pid}")
    assert told[f"ostler_cost_total{{{LABELS}}}"] == 2.5
    assert told["ostler_requests_in_flight{}"] == 2
    assert told["ostler_replica_running{replica=r0}"] == 2


def test_a_replica_forgotten_by_all_processes_stands_at_zero(workers: tuple[Worker, Worker]) -> None:
    """The library cannot remove a series there."""
    told = [worker.tell("forget r0") for worker in workers][-1]
    assert told["ostler_replica_running{replica=r0}"] == 0
    assert told["ostler_replica_breaker_open{replica=r0}"] == 0


def test_a_version_forgotten_by_all_processes_keeps_its_counts(workers: tuple[Worker, Worker]) -> None:
    """The library cannot remove a series there; its breaker is closed."""
    told = [worker.tell("archive") for worker in workers][-1]
    assert told["ostler_version_breaker_open{adapter=support,version=2}"] == 0
    assert told[f"ostler_cost_total{{{LABELS}}}"] == 2.5


def test_deployments_are_told_once_however_many_processes_see_them(workers: tuple[Worker, Worker]) -> None:
    """The newest look counts, and what all have forgotten stands at 0, as the library cannot remove a series."""
    first, second = workers
    first.tell("deploy 3 1 2 0.25")
    told = second.tell("deploy 3 1 2 0.25")
    name = "ostler_deployment_weight{adapter=support,variant=%s,version=%s}"
    assert told["ostler_deployment_revision{adapter=support}"] == 3
    assert (told[name % ("stable", 1)], told[name % ("canary", 2)]) == (0.75, 0.25)
    first.tell("deploy 4 2 3 0.5")
    told = second.tell("deploy 4 2 3 0.5")
    assert told["ostler_deployment_revision{adapter=support}"] == 4
    assert (told[name % ("stable", 2)], told[name % ("canary", 3)]) == (0.5, 0.5)
    assert (told[name % ("stable", 1)], told[name % ("canary", 2)]) == (0, 0)


def test_other_processes_see_what_was_published(workers: tuple[Worker, Worker]) -> None:
    """And not what was counted since, nor anything twice."""
    first, second = workers
    name = f"ostler_request_duration_seconds_count{{{LABELS}}}"
    assert first.tell("count {}")[name] == 5
    assert second.tell()[name] == 5
    for told in (first.tell("publish"), second.tell(), first.tell("publish"), second.tell("publish")):
        assert told[name] == 6


OF_REQUESTS = (
    "ostler_requests_total",
    "ostler_request_duration",
    "ostler_time_",
    "ostler_tokens",
    "ostler_cost",
    "ostler_gateway_overhead",
)
"""How the names begin of what every request counts."""


def test_processes_together_tell_what_one_would(workers: tuple[Worker, Worker]) -> None:
    """Whichever of them a request comes to, and whenever they publish."""
    alone, chance = Metrics(), random.Random(7)
    for _ in range(5):  # what the processes have counted by themselves
        alone(record())
    for _ in range(120):
        worker = chance.choice(workers)
        if chance.random() < 0.2:
            worker.tell("publish")
        fields: dict[str, Any] = {
            "adapter": chance.choice(["support", "billing", None]),
            "status": chance.choice([200, 502]),
            "streamed": chance.random() < 0.5,
            "duration_s": chance.choice([*BOUNDS, chance.uniform(0, 400)]),
            "cost": chance.uniform(0, 9),
            "overhead_s": chance.choice([None, chance.uniform(0, 0.2)]),
        }
        worker.tell("count " + json.dumps(fields))
        alone(record(**fields))
    told = [worker.tell("publish") for worker in workers][-1]
    expected = {name: n for name, n in samples(alone.exposition().decode()).items() if name.startswith(OF_REQUESTS)}
    assert len(expected) > 100
    assert {name: n for name, n in told.items() if name.startswith(OF_REQUESTS)} == pytest.approx(expected)
