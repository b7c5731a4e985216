"""Prometheus metrics, each declared once. Labels are bounded: adapters and versions, never users or keys."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from monitors.record import RequestRecord

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody asks for
CONTENT_TYPE = CONTENT_TYPE_LATEST
_LABELS = ("adapter", "version", "variant")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_SWAP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)


class Metrics:
    """The gateway's metrics; a `RequestHook`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("ostler_requests", "Finished requests.", (*_LABELS, "status"), registry=self.registry)
        self._duration = Histogram(
            "ostler_request_duration_seconds",
            "From a request's arrival to its last byte.",
            _LABELS,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._first_byte = Histogram(
            "ostler_time_to_first_byte_seconds",
            "From a request's arrival to the engine's first byte.",
            _LABELS,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._tokens = Counter(
            "ostler_tokens", "Tokens, as the engine counted them.", (*_LABELS, "type"), registry=self.registry
        )
        self.in_flight = Gauge("ostler_requests_in_flight", "Requests being served.", registry=self.registry)
        self.engine_ready = Gauge(
            "ostler_replica_ready", "1 if the replica serves.", ("replica",), registry=self.registry
        )
        self.resident = Gauge(
            "ostler_resident_versions", "Versions loaded in the replica.", ("replica",), registry=self.registry
        )
        self.loads = Histogram(
            "ostler_version_load_seconds",
            "Time to load and probe a version.",
            ("replica",),
            buckets=_SWAP_SECONDS,
            registry=self.registry,
        )
        self.flips = Histogram(
            "ostler_deployment_change_seconds",
            "Time of a promote or rollback, from the call until it is served.",
            ("action",),
            buckets=_SWAP_SECONDS,
            registry=self.registry,
        )

    def __call__(self, record: RequestRecord) -> None:
        """Count a finished request."""
        version = str(record.version) if record.version is not None else ""
        labels = (record.adapter or "", version, record.variant or "")
        self._requests.labels(*labels, str(record.status)).inc()
        self._duration.labels(*labels).observe(record.duration_s)
        if record.first_byte_s is not None:
            self._first_byte.labels(*labels).observe(record.first_byte_s)
        if record.prompt_tokens is not None:
            self._tokens.labels(*labels, "prompt").inc(record.prompt_tokens)
        if record.completion_tokens is not None:
            self._tokens.labels(*labels, "completion").inc(record.completion_tokens)

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)
