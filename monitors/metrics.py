"""Prometheus metrics, each declared once. Labels are bounded: adapters and versions, never users or keys.

With ``PROMETHEUS_MULTIPROC_DIR`` in the environment before this module is first imported, every process keeps its
numbers in files of that folder, and each tells those of all. The folder must be empty when the first process starts.
"""

import os
from collections.abc import Sequence
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from monitors.record import RequestRecord

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody asks for
CONTENT_TYPE = CONTENT_TYPE_LATEST
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_LABELS = ("adapter", "version", "variant")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_SWAP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)

Merge = Literal["livesum", "livemin", "livemax", "livemostrecent"]
"""How a gauge's values of several processes become one; those of dead processes never count."""


class Metrics:
    """The gateway's metrics; a `RequestHook`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._declare_requests()
        self._declare_waiting()
        self._declare_replicas()
        self._declare_versions()
        self._declare_background()

    def _declare_requests(self) -> None:
        self._requests = self._counter("ostler_requests", "Finished requests.", (*_LABELS, "status"))
        self._duration = self._histogram(
            "ostler_request_duration_seconds", "From a request's arrival to its last byte.", _LABELS
        )
        self._first_byte = self._histogram(
            "ostler_time_to_first_byte_seconds", "From a request's arrival to the engine's first byte.", _LABELS
        )
        self._tokens = self._counter("ostler_tokens", "Tokens, as the engine counted them.", (*_LABELS, "type"))
        self._cost = self._counter("ostler_cost", "What requests cost, in the currency of the set prices.", _LABELS)
        self.retries = self._counter("ostler_retries", "Requests sent again to another replica.", ("reason",))
        self.rejected = self._counter(
            "ostler_rejected", "Requests turned away before they reached an engine.", ("reason",)
        )

    def _declare_waiting(self) -> None:
        self.in_flight = self._gauge("ostler_requests_in_flight", "Requests being served.", merge="livesum")
        self.requests_queued = self._gauge("ostler_requests_queued", "Requests that wait for a place.", merge="livesum")
        self.queue = self._histogram("ostler_queue_seconds", "Time that requests which had to queue waited.")
        self.limits_fallback = self._counter(
            "ostler_limits_fallback", "Limits counted in this process alone, as the shared counter was away."
        )

    def _declare_replicas(self) -> None:
        replica = ("replica",)
        self.engine_ready = self._gauge("ostler_replica_ready", "1 if the replica serves.", replica)
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
        self.residency = self._counter(
            "ostler_residency_lookups",
            "Requests by whether their replica had the version loaded (hit) or had to load it (miss).",
            ("adapter", "outcome"),
        )

    def _declare_background(self) -> None:
        self.shadow = self._counter("ostler_shadow_requests", "Shadow requests, ended.", ("adapter", "outcome"))
        self.shadow_dropped = self._counter("ostler_shadow_dropped", "Shadow requests not sent or ended.", ("reason",))
        self.records_written = self._counter("ostler_records_written", "Request records written to the database.")
        self.records_dropped = self._counter("ostler_records_dropped", "Request records lost.", ("reason",))
        self.records_buffered = self._gauge(
            "ostler_records_buffered", "Request records that wait to be written.", merge="livesum"
        )
        self.database_reachable = self._gauge(
            "ostler_database_reachable", "1 if every process reaches the database.", merge="livemin"
        )

    def _counter(self, name: str, help: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, help, labels, registry=self.registry)

    def _gauge(self, name: str, help: str, labels: Sequence[str] = (), merge: Merge = "livemostrecent") -> Gauge:
        """A gauge. Those of replicas are looks at one thing by several processes, of which the newest is right."""
        return Gauge(name, help, labels, registry=self.registry, multiprocess_mode=merge)

    def _histogram(
        self, name: str, help: str, labels: Sequence[str] = (), buckets: Sequence[float] = _SECONDS
    ) -> Histogram:
        return Histogram(name, help, labels, buckets=buckets, registry=self.registry)

    def __call__(self, record: RequestRecord) -> None:
        """Count a finished request."""
        version = str(record.version) if record.version is not None else ""
        labels = (record.adapter or "", version, record.variant or "")
        self._requests.labels(*labels, str(record.status)).inc()
        self._duration.labels(*labels).observe(record.duration_s)
        if record.first_byte_s is not None:
            self._first_byte.labels(*labels).observe(record.first_byte_s)
        if record.queue_s > 0:
            self.queue.observe(record.queue_s)
        for kind, tokens in (("prompt", record.prompt_tokens), ("completion", record.completion_tokens)):
            if tokens is not None:
                self._tokens.labels(*labels, kind).inc(tokens)
        if record.cost is not None:
            self._cost.labels(*labels).inc(record.cost)

    def forget_replica(self, id: str) -> None:
        """Let a replica that is gone disappear.

        With several processes the library cannot remove a series; its gauges then stand at 0.
        """
        gauges = (
            self.engine_ready,
            self.resident,
            self.replica_running,
            self.replica_waiting,
            self.replica_kv_cache,
            self.replica_breaker,
        )
        for gauge in gauges:
            gauge.labels(id).set(0)
        if _FOLDER not in os.environ:
            for metric in (*gauges, self.loads, self.unloads):
                metric.remove_by_labels({"replica": id})

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format, of all processes of this gateway."""
        if _FOLDER not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)


def mark_process_dead(pid: int) -> None:
    """Let the gauges of a process that has ended count no longer; what it counted stays counted."""
    if _FOLDER in os.environ:
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
