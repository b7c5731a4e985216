"""The dashboard 'Tuning': which adapters lost quality, what was concluded, and what becomes of the tuning jobs?"""

from helm.dashboards.source.layout import Dashboard, Row, Variable
from helm.dashboards.source.panels import (
    BLUE,
    GREEN,
    OK_OR_ALARM,
    RED,
    YELLOW,
    Column,
    Panel,
    Query,
    bars,
    graph,
    number,
    or_none,
    states,
    table,
)

_CHOSEN = 'adapter=~"$adapter"'


def _jobs(*states: str) -> Query:
    return Query(f'sum(max by (status) (ostler_tuning_jobs{{status=~"{"|".join(states)}"}}))')


def _at_work(name: str) -> str:
    return f"max by (adapter) (ostler_tuning_{name}{{{_CHOSEN}}})"


def _course(title: str, description: str, name: str, unit: str = "short") -> Panel:
    """A figure of the jobs at work over time."""
    return graph(title, description, Query(_at_work(name), "{{adapter}}"), unit=unit, width=6)


_NOW = Row(
    "Now",
    (
        number("Queued", "Tuning jobs that wait for a tuner.", _jobs("queued")),
        number("Running", "Tuning jobs at work.", _jobs("validating_files", "running")),
        number("Succeeded", "Tuning jobs that made a version.", _jobs("succeeded"), steps=((None, GREEN),)),
        number(
            "Failed",
            "Tuning jobs that made none, or one that its gate rejected.",
            _jobs("failed"),
            steps=((None, GREEN), (1, YELLOW)),
        ),
        number(
            "Quality alarms",
            "Versions that lost quality, by the evidence of e-CUSUM.",
            Query(f"count(max by (adapter, version) (ostler_quality_alarm{{{_CHOSEN}}}) == 1) or vector(0)"),
            steps=((None, GREEN), (1, RED)),
        ),
        number(
            "Drift",
            "Versions whose newest window of traffic is not like the reference.",
            Query(f"count(max by (adapter, version) (ostler_drift_detected{{{_CHOSEN}}}) == 1) or vector(0)"),
            steps=((None, GREEN), (1, YELLOW)),
        ),
    ),
)
_WHY = Row(
    "Why to tune",
    (
        states(
            "Quality",
            "Versions by whether e-CUSUM says that they lost quality.",
            Query(f"max by (adapter, version) (ostler_quality_alarm{{{_CHOSEN}}})", "{{adapter}} {{version}}"),
            mappings=OK_OR_ALARM,
            height=8,
        ),
        graph(
            "Evidence of lost quality",
            "e-CUSUM's evidence over its limit: an alarm from 1 on.",
            Query(
                f"max by (adapter, version, scorer) (ostler_quality_cusum_ratio{{{_CHOSEN}}})",
                "{{adapter}} {{version}} {{scorer}}",
            ),
            width=12,
            line_at=1,
        ),
        graph(
            "Golden sets",
            "Mean score of each version on its adapter's golden set.",
            Query(
                f"max by (adapter, version, scorer) (ostler_golden_score{{{_CHOSEN}}})",
                "{{adapter}} {{version}} {{scorer}}",
            ),
            unit="percentunit",
            width=12,
            high=1,
        ),
        table(
            "Quality by version",
            "The newest scores, with the difference to the base model.",
            {"adapter": "Adapter", "version": "Version", "scorer": "Scorer"},
            (
                Column("Score", f"max by (adapter, version, scorer) (ostler_quality_score{{{_CHOSEN}}})", decimals=3),
                Column("Sessions", f"max by (adapter, version, scorer) (ostler_quality_observations{{{_CHOSEN}}})"),
                Column(
                    "Against base",
                    f'max by (adapter, version, scorer) (ostler_quality_difference{{{_CHOSEN}, against="base"}})',
                    decimals=3,
                ),
                Column(
                    "Alarm",
                    f"max by (adapter, version, scorer) (ostler_quality_alarm{{{_CHOSEN}}})",
                    mappings=OK_OR_ALARM,
                ),
            ),
            width=12,
            height=8,
            link=("Adapter", "/d/ostler-adapter?var-adapter=${__value.text}&${__url_time_range}"),
        ),
    ),
)
_TRAINING = Row(
    "Jobs at work",
    (
        table(
            "At work",
            "The jobs that tuners train now. `ostler jobs follow ID` tells more of one.",
            {"adapter": "Adapter"},
            (
                Column("Done", _at_work("progress_ratio"), unit="percentunit"),
                Column("Remaining", _at_work("remaining_seconds"), unit="s"),
                Column("Loss", _at_work("loss"), decimals=3),
                Column("Validation loss", _at_work("validation_loss"), decimals=3),
            ),
            width=12,
            height=8,
            link=("Adapter", "/d/ostler-adapter?var-adapter=${__value.text}&${__url_time_range}"),
        ),
        graph(
            "Loss",
            "Of the newest step, and of the validation split (nats a token).",
            Query(_at_work("loss"), "{{adapter}} training"),
            Query(_at_work("validation_loss"), "{{adapter}} validation"),
            width=12,
        ),
        _course("Learning rate", "Of the newest step; it warms up, then follows a cosine.", "learning_rate"),
        _course("Gradient norm", "Before it is clipped at 1.", "gradient_norm"),
        _course("Speed", "Tokens that are trained on in a second.", "tokens_per_second"),
        _course("Memory", "The most that training held, of the GPU or else of the process.", "memory_bytes", "bytes"),
    ),
)
_WHAT = Row(
    "What was done",
    (
        graph(
            "Tuning jobs",
            "How many there are, by status.",
            Query("max by (status) (ostler_tuning_jobs)", "{{status}}"),
            width=12,
            stacked=True,
        ),
        table(
            "Decisions",
            "How often each was taken. `ostler decisions NAME` tells the reasons.",
            {"adapter": "Adapter", "kind": "Kind", "outcome": "Outcome"},
            (Column("Decisions", f"max by (adapter, kind, outcome) (ostler_decisions{{{_CHOSEN}}})"),),
            width=12,
            height=8,
        ),
        graph(
            "Tuners",
            "How many there are, and how many of them train now.",
            Query("count(ostler_tuning_steps_total)", "running"),
            Query("sum(ostler_tuning_at_work) or vector(0)", "training"),
            width=6,
        ),
        graph(
            "Longest wait",
            "Of a job that a tuner could begin.",
            Query("max(ostler_tuning_wait_seconds)", "wait"),
            unit="s",
            width=6,
        ),
        graph(
            "Time of stages",
            "Mean time that a stage of a job took.",
            Query(
                "sum by (stage) (rate(ostler_tuning_stage_seconds_sum[$__rate_interval]))"
                " / (sum by (stage) (rate(ostler_tuning_stage_seconds_count[$__rate_interval])) > 0)",
                "{{stage}}",
            ),
            unit="s",
            width=6,
        ),
        graph(
            "Ended",
            "Jobs that left their tuner within a day, by how.",
            Query(or_none("sum by (outcome) (increase(ostler_tuning_ended_total[1d]))", "outcome"), "{{outcome}}"),
            width=6,
        ),
    ),
)
_MONITOR = Row(
    "The monitor",
    (
        graph(
            "Active monitors",
            "Exactly one holds the lease; others stand by.",
            Query("sum(ostler_monitor_active)", "active"),
            Query("count(ostler_monitor_active)", "running"),
            width=6,
        ),
        graph(
            "Time of its jobs",
            "Mean time that a job took.",
            Query(
                "sum by (task) (rate(ostler_monitor_job_seconds_sum[$__rate_interval]))"
                " / (sum by (task) (rate(ostler_monitor_job_seconds_count[$__rate_interval])) > 0)",
                "{{task}}",
            ),
            unit="s",
            width=6,
        ),
        graph(
            "Failures",
            "Jobs that failed within an hour; each is tried again.",
            Query(
                or_none("sum by (task) (increase(ostler_monitor_failures_total[1h]))", "task"),
                "{{task}}",
            ),
            width=6,
        ),
        bars(
            "Since the last success",
            "How long ago each job last succeeded.",
            Query("time() - max by (task) (ostler_monitor_last_success_timestamp_seconds)", "{{task}}"),
            unit="s",
            width=6,
            steps=((None, BLUE), (3600, YELLOW), (7200, RED)),
        ),
    ),
)

TUNING = Dashboard(
    "ostler-tuning",
    "Ostler / Tuning",
    "Which adapters lost quality, what was concluded, and what becomes of the tuning jobs?",
    (Variable("adapter", "Adapter", "label_values(ostler_deployment_revision, adapter)"),),
    (_NOW, _TRAINING, _WHY, _WHAT, _MONITOR),
    since="now-7d",
)
