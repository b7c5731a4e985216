"""What the monitor found, as Prometheus metrics; each declared once. Labels are bounded by adapters and versions."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_VERSION = ("adapter", "version")
_JOB_SECONDS = (0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)


class MonitorMetrics:
    """The monitor's metrics. Gauges of quality and drift are set from the database, so a restart shows them again."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._findings: list[Gauge] = []
        scored, paired = (*_VERSION, "scorer"), (*_VERSION, "scorer", "against")
        self.score = self._gauge("ostler_quality_score", "Mean score of a version's answers, 0 to 1.", scored)
        self.score_low = self._gauge("ostler_quality_score_low", "Lower end of that mean's interval.", scored)
        self.score_high = self._gauge("ostler_quality_score_high", "Upper end of that mean's interval.", scored)
        self.observations = self._gauge("ostler_quality_observations", "Sessions in that mean.", scored)
        self.cusum = self._gauge(
            "ostler_quality_cusum_ratio", "Evidence of a fall below the expected level; an alarm from 1 on.", scored
        )
        self.alarm = self._gauge("ostler_quality_alarm", "1 from the alarm of lost quality on.", scored)
        self.difference = self._gauge(
            "ostler_quality_difference", "Mean paired difference of scores, against the base or stable.", paired
        )
        self.difference_low = self._gauge("ostler_quality_difference_low", "Lower end of its interval.", paired)
        self.difference_high = self._gauge("ostler_quality_difference_high", "Upper end of its interval.", paired)
        self.pairs = self._gauge("ostler_quality_pairs", "Sessions in that difference.", paired)
        self.golden = self._gauge(
            "ostler_golden_score", "Mean score on the golden set; no version is the base.", scored
        )
        self.golden_low = self._gauge("ostler_golden_score_low", "Lower end of its interval.", scored)
        self.golden_high = self._gauge("ostler_golden_score_high", "Upper end of its interval.", scored)
        self.drift = self._gauge(
            "ostler_drift_ratio", "A column's drift over its threshold; drifted above 1.", (*_VERSION, "column")
        )
        self.drift_detected = self._gauge("ostler_drift_detected", "1 if the newest window drifted.", _VERSION)
        self.drift_rows = self._gauge("ostler_drift_window_rows", "Rows of the newest window.", _VERSION)
        self.drift_enough = self._gauge("ostler_drift_enough_data", "1 if that was enough to judge by.", _VERSION)
        self.cost_per_thousand = self._gauge(
            "ostler_cost_per_thousand_requests",
            "Cost of 1,000 requests over the last day; the variant base is the base model's.",
            ("adapter", "variant"),
        )
        self.decisions = self._gauge(
            "ostler_decisions", "Decisions so far, from the database.", ("adapter", "kind", "outcome")
        )
        self.loop_phase = self._gauge(
            "ostler_loop_phase",
            "1 for the phase in which the loop is with an adapter, 0 for the others.",
            ("adapter", "phase"),
        )
        self.loop_paused = self._gauge("ostler_loop_paused", "1 while the loop is paused for an adapter.", ("adapter",))
        self.loop_frozen = self._gauge("ostler_loop_frozen", "1 while all automatic change is frozen.")
        self.loop_evidence = self._gauge(
            "ostler_loop_canary_evidence_ratio",
            "Evidence that a new version is worse, or not worse by what matters, over what establishes it, in nats.",
            ("adapter", "finding"),
        )
        self.loop_labels = self._gauge(
            "ostler_loop_labels", "Requests that got a label to learn from since the last training.", ("adapter",)
        )
        self.loop_approval_wait = self._gauge(
            "ostler_loop_approval_wait_seconds",
            "How long the loop has waited for an approval; 0 if it does not.",
            ("adapter",),
        )
        self.loop_pending = self._gauge(
            "ostler_loop_pending_seconds",
            "How long ago what is not carried out yet was decided; 0 if nothing is.",
            ("adapter",),
        )
        self.loop_decided = self._gauge(
            "ostler_loop_last_decision_timestamp_seconds", "When the loop last decided something new.", ("adapter",)
        )
        self.loop_acts = self._gauge(
            "ostler_loop_acts", "What the loop did so far, from the database.", ("adapter", "act")
        )
        self.tuning_jobs = self._gauge("ostler_tuning_jobs", "Tuning jobs by status.", ("status",))
        self.tuning_failures = self._gauge("ostler_tuning_failures", "Failed tuning jobs by why.", ("code",))
        self.tuning_wait = self._gauge(
            "ostler_tuning_wait_seconds", "Longest wait of a tuning job that a tuner could begin; 0 if none waits."
        )
        self.webhook_deliveries = self._gauge(
            "ostler_webhook_deliveries",
            "Events that wait to be told, or were given up, of webhooks that are on; no tests.",
            ("state",),
        )
        self.webhook_wait = self._gauge(
            "ostler_webhook_wait_seconds", "How long the oldest event that is not told yet has waited; 0 if none does."
        )
        self.active = self._gauge("ostler_monitor_active", "1 if this monitor holds the lease.")
        self.last_run = self._gauge(
            "ostler_monitor_last_success_timestamp_seconds", "When a job last succeeded.", ("task",)
        )
        self.runs = Histogram(
            "ostler_monitor_job_seconds", "How long jobs take.", ("task",), buckets=_JOB_SECONDS, registry=self.registry
        )
        self.judge_unreadable = Counter(
            "ostler_judge_unreadable",
            "Verdicts of the LLM judge that could not be read; they count as ties.",
            registry=self.registry,
        )
        self.webhook_attempts = Counter(
            "ostler_webhook_attempts", "Attempts to tell webhooks of events.", ("outcome",), registry=self.registry
        )
        self.failures = Counter("ostler_monitor_failures", "Jobs that failed.", ("task",), registry=self.registry)

    def forget_findings(self) -> None:
        """Let all that was found disappear: another monitor shows it from now on."""
        for gauge in self._findings:
            gauge.clear()
        self.tuning_wait.set(0)
        self.webhook_wait.set(0)
        self.loop_frozen.set(0)

    def _gauge(self, name: str, help: str, labels: Sequence[str] = ()) -> Gauge:
        gauge = Gauge(name, help, labels, registry=self.registry)
        if labels:
            self._findings.append(gauge)
        return gauge
