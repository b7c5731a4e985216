"""The tuner's metrics, for Prometheus; each declared once. Labels are bounded by adapters and by words of ours."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_STAGE_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)


class TunerMetrics:
    """What is happening to the job at work, and what became of those before it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.at_work = self._gauge("ostler_tuning_at_work", "1 while a job of the adapter is at work here.")
        self.loss = self._gauge("ostler_tuning_loss", "Training loss of the newest step (nats a token).")
        self.validation_loss = self._gauge("ostler_tuning_validation_loss", "Newest loss on the validation split.")
        self.learning_rate = self._gauge("ostler_tuning_learning_rate", "Learning rate of the newest step.")
        self.gradient_norm = self._gauge("ostler_tuning_gradient_norm", "Gradient norm before clipping.")
        self.tokens_per_second = self._gauge("ostler_tuning_tokens_per_second", "Tokens trained on in a second.")
        self.memory = self._gauge("ostler_tuning_memory_bytes", "Most memory that training held.")
        self.progress = self._gauge("ostler_tuning_progress_ratio", "Steps done, as a share of all.")
        self.remaining = self._gauge("ostler_tuning_remaining_seconds", "Time until the last step, as things go.")
        self.stage_seconds = Histogram(
            "ostler_tuning_stage_seconds",
            "How long stages of jobs take.",
            ("stage",),
            buckets=_STAGE_SECONDS,
            registry=self.registry,
        )
        self.steps = Counter("ostler_tuning_steps", "Optimizer steps.", registry=self.registry)
        self.tokens = Counter("ostler_tuning_tokens", "Tokens trained on.", registry=self.registry)
        self.ended = Counter(
            "ostler_tuning_ended", "Jobs that ended here, by how.", ("outcome",), registry=self.registry
        )

    def forget(self, adapter: str) -> None:
        """Let the gauges of an adapter disappear: its job is not at work here any more."""
        for gauge in self._gauges:
            gauge.remove_by_labels({"adapter": adapter})

    @property
    def _gauges(self) -> tuple[Gauge, ...]:
        return tuple(value for value in vars(self).values() if isinstance(value, Gauge))

    def _gauge(self, name: str, help: str) -> Gauge:
        return Gauge(name, help, ("adapter",), registry=self.registry)
