"""Prometheus metrics, each declared once. Labels are bounded: adapters and versions, never users or keys.

With ``PROMETHEUS_MULTIPROC_DIR`` in the environment before this module is first imported, every process keeps its
numbers in files of that folder, and each tells those of all. The folder must be empty when the first process starts.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from monitors.counting import Count, Counters, Distribution, Histograms
from monitors.exposition import CONTENT_TYPE, Exposition, is_of_several_processes, mark_process_dead
from monitors.record import RequestRecord
from registry.catalog import Adapter

__all__ = ["CONTENT_TYPE", "Metrics", "mark_process_dead"]

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody asks for
_LABELS = ("adapter", "version", "variant")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
# Those that every version has are few: a thousand adapters have a thousand times as many series.
_REQUEST_SECONDS = (0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
_TOKEN_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_OVERHEAD_SECONDS = (0.0001, 0.0002, 0.0004, 0.0006, 0.001, 0.0015, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0)
_SWAP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)

_PUBLISH_EVERY_S = 0.5
"""A process that is killed loses what it has counted since."""

Merge = Literal["livesum", "livemin", "livemax", "livemostrecent"]
"""How a gauge's values of several processes become one; those of dead processes never count."""


@dataclass(frozen=True, slots=True)
class _Series:
    """The series that a finished request counts in. To look them up takes longer than to count."""

    requests: Count
    duration: Distribution
    first_token: Distribution
    per_token: Distribution
    input_tokens: Count
    output_tokens: Count
    cost: Count

    def count(self, record: RequestRecord) -> None:
        self.requests.inc()
        self.duration.observe(record.duration_s)
        if record.streamed and record.first_byte_s is not None:
            self.first_token.observe(record.first_byte_s)
            tokens = record.completion_tokens or 0
            if tokens > 1 and record.error is None:
                self.per_token.observe((record.duration_s - record.first_byte_s) / (tokens - 1))
        if record.prompt_tokens:
            self.input_tokens.inc(record.prompt_tokens)
        if record.completion_tokens:
            self.output_tokens.inc(record.completion_tokens)
        if record.cost:
            self.cost.inc(record.cost)


_SeriesKey = tuple[str | None, int | None, str | None, int]


class Metrics:
    """The gateway's metrics; a `RequestHook`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._exposition = Exposition(self.registry)
        self._series: dict[_SeriesKey, _Series] = {}
        self._of_requests: list[Counters | Histograms] = []
        self._declare_requests()
        self._declare_waiting()
        self._declare_replicas()
        self._declare_versions()
        self._declare_background()

    def _declare_requests(self) -> None:
        self._requests = self._requests_counter("ostler_requests", "Finished requests.", (*_LABELS, "status"))
        self._duration = self._requests_histogram(
            "ostler_request_duration_seconds", "From a request's arrival to its last byte.", _LABELS, _REQUEST_SECONDS
        )
        self._first_token = self._requests_histogram(
            "ostler_time_to_first_token_seconds",
            "From a streamed request's arrival to the engine's first event.",
            _LABELS,
            _FIRST_TOKEN_SECONDS,
        )
        self._per_token = self._requests_histogram(
            "ostler_time_per_output_token_seconds",
            "Time of each token after the first, in streams that ended well.",
            _LABELS,
            _TOKEN_SECONDS,
        )
        self._tokens = self._requests_counter(
            "ostler_tokens", "Tokens, as the engine counted them.", (*_LABELS, "gen_ai_token_type")
        )
        self._cost = self._requests_counter(
            "ostler_cost", "What requests cost, in the currency of the set prices.", _LABELS
        )
        self._broken = self._counter(
            "ostler_streams_broken", "Streams that ended early, after their status 200.", (*_LABELS, "error_type")
        )
        self.retries = self._counter("ostler_retries", "Requests sent again to another replica.", ("reason",))
        self.rejected = self._counter(
            "ostler_rejected", "Requests turned away before they reached an engine.", ("reason",)
        )

    def _declare_waiting(self) -> None:
        self.in_flight = self._gauge("ostler_requests_in_flight", "Requests being served.", merge="livesum")
        self.requests_queued = self._gauge("ostler_requests_queued", "Requests that wait for a place.", merge="livesum")
        self.queue = self._histogram("ostler_queue_seconds", "Time that requests which had to queue waited.")
        self._overhead = self._requests_histogram(
            "ostler_gateway_overhead_seconds",
            "The gateway's own part of a request's time, without engine, queue, load and client.",
            (),
            _OVERHEAD_SECONDS,
        ).labels()
        self.limits_fallback = self._counter(
            "ostler_limits_fallback", "Limits counted in this process alone, as the shared counter was away."
        )

    def _declare_replicas(self) -> None:
        replica = ("replica",)
        self.engine_ready = self._gauge("ostler_replica_ready", "1 if the replica serves.", replica)
        self.replica_asleep = self._gauge(
            "ostler_replica_asleep", "1 if the replica sleeps, so that somebody else can use its GPU.", replica
        )
        self.resident = self._gauge("ostler_resident_versions", "Versions loaded in the replica.", replica)
        self.replica_running = self._gauge("ostler_replica_running", "Requests that the replica computes.", replica)
        self.replica_waiting = self._gauge("ostler_replica_waiting", "Requests that wait in the replica.", replica)
        self.replica_kv_cache = self._gauge(
            "ostler_replica_kv_cache_usage_ratio", "Used part of the replica's key-value cache, 0 to 1.", replica
        )
        self.replica_breaker = self._gauge(
            "ostler_replica_breaker_open", "1 if the replica is left alone after failures.", replica, merge="livemax"
        )
        self.loads = self._histogram(
            "ostler_version_load_seconds", "Time to load and probe a version.", replica, _SWAP_SECONDS
        )
        self.proofs = self._histogram(
            "ostler_version_proof_seconds", "Time of a version's proof, a part of its load.", replica, _SWAP_SECONDS
        )
        self.unloads = self._counter("ostler_unloads", "Versions unloaded.", ("replica", "reason"))

    def _declare_versions(self) -> None:
        self.flips = self._histogram(
            "ostler_deployment_change_seconds",
            "Time of a promote or rollback, from the call until it is served.",
            ("action",),
            _SWAP_SECONDS,
        )
        self.version_breaker = self._gauge(
            "ostler_version_breaker_open",
            "1 if the version is left alone after failures.",
            ("adapter", "version"),
            merge="livemax",
        )
        self._residency = self._requests_counter(
            "ostler_residency_lookups",
            "Requests by whether their replica had the version loaded (hit) or had to load it (miss).",
            ("adapter", "outcome"),
        )
        self.revision = self._gauge("ostler_deployment_revision", "The deployment's revision.", ("adapter",))
        self.weight = self._gauge(
            "ostler_deployment_weight", "Share of the sessions that the version gets, 0 to 1.", _LABELS
        )
        self._lookups: dict[tuple[str, bool], Count] = {}
        self._weights: dict[tuple[str, str, str], float] = {}
        self._revisions: dict[tuple[str], int] = {}

    def _declare_background(self) -> None:
        self.shadow = self._counter("ostler_shadow_requests", "Shadow requests, ended.", ("adapter", "outcome"))
        self.shadow_dropped = self._counter("ostler_shadow_dropped", "Shadow requests not sent or ended.", ("reason",))
        self.records_written = self._counter("ostler_records_written", "Request records written to the database.")
        self.records_dropped = self._counter("ostler_records_dropped", "Request records lost.", ("reason",))
        self.records_buffered = self._gauge(
            "ostler_records_buffered", "Request records that wait to be written.", merge="livesum"
        )
        self.captures_written = self._counter("ostler_captures_written", "Prompts with their answers written.")
        self.captures_dropped = self._counter(
            "ostler_captures_dropped", "Prompts with their answers that were to be kept and were not.", ("reason",)
        )
        self.database_reachable = self._gauge(
            "ostler_database_reachable", "1 if every process reaches the database.", merge="livemin"
        )

    def _counter(self, name: str, help: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, help, labels, registry=self.registry)

    def _requests_counter(self, name: str, help: str, labels: Sequence[str]) -> Counters:
        """A counter that requests count in, and nobody else."""
        family = Counters(name, help, labels, registry=self.registry)
        self._of_requests.append(family)
        return family

    def _requests_histogram(self, name: str, help: str, labels: Sequence[str], buckets: Sequence[float]) -> Histograms:
        family = Histograms(name, help, labels, buckets, self.registry)
        self._of_requests.append(family)
        return family

    def _gauge(self, name: str, help: str, labels: Sequence[str] = (), merge: Merge = "livemostrecent") -> Gauge:
        """A gauge. Those of replicas are looks at one thing by several processes, of which the newest is right."""
        return Gauge(name, help, labels, registry=self.registry, multiprocess_mode=merge)

    def _histogram(
        self, name: str, help: str, labels: Sequence[str] = (), buckets: Sequence[float] = _SECONDS
    ) -> Histogram:
        return Histogram(name, help, labels, buckets=buckets, registry=self.registry)

    def __call__(self, record: RequestRecord) -> None:
        """Count a finished request."""
        key = (record.adapter, record.version, record.variant, record.status)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = self._make_series(key)
        series.count(record)
        if record.queue_s > 0:
            self.queue.observe(record.queue_s)
        if record.overhead_s is not None:
            self._overhead.observe(record.overhead_s)
        if record.streamed and record.error is not None:
            self._broken.labels(*_labels(key), record.error).inc()

    def looked_up(self, adapter: str, *, is_hit: bool) -> None:
        """Count a request by whether its replica had the version loaded."""
        found = self._lookups.get((adapter, is_hit))
        if found is None:
            found = self._lookups[adapter, is_hit] = self._residency.labels(adapter, "hit" if is_hit else "miss")
        found.inc()

    def _make_series(self, key: _SeriesKey) -> _Series:
        labels = _labels(key)
        return _Series(
            self._requests.labels(*labels, str(key[3])),
            self._duration.labels(*labels),
            self._first_token.labels(*labels),
            self._per_token.labels(*labels),
            self._tokens.labels(*labels, "input"),
            self._tokens.labels(*labels, "output"),
            self._cost.labels(*labels),
        )

    def show_deployments(self, adapters: Iterable[Adapter]) -> None:
        """Tell what each deployment points at now; what none points at any more disappears, as below."""
        revisions: dict[tuple[str], int] = {}
        weights: dict[tuple[str, str, str], float] = {}
        for adapter in adapters:
            if (deployment := adapter.deployment) is None:
                continue
            revisions[(adapter.name,)] = deployment.revision
            canary = deployment.canary
            weights[adapter.name, str(deployment.stable), "stable"] = 1.0 - (canary.weight if canary else 0.0)
            if canary is not None:
                weights[adapter.name, str(canary.version), "canary"] = canary.weight
        _show_changes(self.revision, self._revisions, revisions)
        _show_changes(self.weight, self._weights, weights)
        self._revisions, self._weights = revisions, weights

    def forget_version(self, adapter: str, version: int) -> None:
        """Let the series of a version that serves no more disappear; with several processes they stay, as below."""
        self.version_breaker.labels(adapter, str(version)).set(0)
        if is_of_several_processes():
            return
        for key in [key for key in self._series if key[:2] == (adapter, version)]:
            del self._series[key]
        of_requests = (self._requests, self._duration, self._first_token, self._per_token, self._tokens, self._cost)
        for metric in (*of_requests, self._broken, self.version_breaker):
            metric.remove_by_labels({"adapter": adapter, "version": str(version)})

    def forget_replica(self, id: str) -> None:
        """Let a replica that is gone disappear.

        With several processes the library cannot remove a series; its gauges then stand at 0.
        """
        gauges = (
            self.engine_ready,
            self.replica_asleep,
            self.resident,
            self.replica_running,
            self.replica_waiting,
            self.replica_kv_cache,
            self.replica_breaker,
        )
        for gauge in gauges:
            gauge.labels(id).set(0)
        if not is_of_several_processes():
            for metric in (*gauges, self.loads, self.proofs, self.unloads):
                metric.remove_by_labels({"replica": id})

    def publish(self) -> None:
        """Let the other processes of this gateway see what requests have counted. It is for the thread of requests."""
        for family in self._of_requests:
            family.publish()

    async def follow(self) -> None:
        """Publish now and then, as long as there are several processes."""
        while is_of_several_processes():
            await asyncio.sleep(_PUBLISH_EVERY_S)
            self.publish()

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format, of all processes of this gateway, up to a second old.

        Of what requests have counted in several processes it has what was published.
        """
        return self._exposition.text()


def _labels(key: _SeriesKey) -> tuple[str, str, str]:
    adapter, version, variant, _status = key
    return adapter or "", "" if version is None else str(version), variant or ""


_Labels = TypeVar("_Labels", bound=tuple[str, ...])


def _show_changes(gauge: Gauge, before: Mapping[_Labels, float], now: Mapping[_Labels, float]) -> None:
    """Set what is new or another number, and let what is gone disappear, or stand at 0 with several processes."""
    for labels, value in now.items():
        if before.get(labels) != value:
            gauge.labels(*labels).set(value)
    for gone in before.keys() - now.keys():
        gauge.labels(*gone).set(0)
        if not is_of_several_processes():
            gauge.remove(*gone)
