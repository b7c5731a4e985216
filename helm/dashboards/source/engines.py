"""The dashboard 'Engines': which engine is busy, full or down, and what do loads of versions cost? And their agents."""

from helm.dashboards.source.layout import Dashboard, Row, Variable
from helm.dashboards.source.panels import (
    BLUE,
    DOWN_OR_UP,
    GREEN,
    RED,
    YELLOW,
    Query,
    bars,
    graph,
    number,
    or_none,
    states,
)

_CHOSEN = 'replica=~"$replica"'
_IS_ASLEEP = f"max by (replica) (ostler_replica_asleep{{{_CHOSEN}}}) == 1"


def _each(metric: str) -> Query:
    """A gauge by engine. Several gateways look at the same engines, so the highest is taken, not the sum."""
    return Query(f"max by (replica) (ostler_{metric}{{{_CHOSEN}}})", "{{replica}}")


def _all(metric: str) -> Query:
    return Query(f"sum(max by (replica) (ostler_{metric}{{{_CHOSEN}}}))")


_NOW = Row(
    "Now",
    (
        number("Ready", "Engines that serve.", _all("replica_ready"), steps=((None, RED), (1, GREEN))),
        number(
            "Not ready",
            "Engines that do not serve, without those that sleep.",
            Query(f"count(max by (replica) (ostler_replica_ready{{{_CHOSEN}}}) == 0 unless {_IS_ASLEEP}) or vector(0)"),
            steps=((None, GREEN), (1, RED)),
        ),
        number("Computing", "Requests that the engines compute.", _all("replica_running")),
        number(
            "Waiting",
            "Requests that wait in the engines.",
            _all("replica_waiting"),
            steps=((None, GREEN), (10, YELLOW), (100, RED)),
        ),
        number(
            "Fullest cache",
            "Used part of the key-value cache of the engine that has least left.",
            Query(f"max(ostler_replica_kv_cache_usage_ratio{{{_CHOSEN}}})"),
            unit="percentunit",
            steps=((None, GREEN), (0.8, YELLOW), (0.95, RED)),
        ),
        number("Loaded versions", "Versions loaded, added up over the engines.", _all("resident_versions")),
    ),
)
_STATE = Row(
    "State",
    (
        states(
            "Ready",
            "Whether each engine serves, or sleeps so that somebody else can use its GPU.",
            Query(
                f"2 * ({_IS_ASLEEP}) or max by (replica) (ostler_replica_ready{{{_CHOSEN}}})",
                "{{replica}}",
            ),
            mappings=DOWN_OR_UP | {2: ("asleep", BLUE)},
            width=12,
            height=7,
        ),
        states(
            "Breakers",
            "Engines that failed too often in a row are left alone for a while.",
            _each("replica_breaker_open"),
            mappings={0: ("closed", GREEN), 1: ("open", RED)},
            width=12,
            height=7,
        ),
    ),
)
_LOAD = Row(
    "Load",
    (
        graph("Requests computed", "Requests in the batch of each engine.", _each("replica_running")),
        graph("Requests waiting", "Requests that wait in each engine for room.", _each("replica_waiting")),
        graph(
            "Key-value cache",
            "Used part. An engine without room lets requests wait, or computes them again.",
            _each("replica_kv_cache_usage_ratio"),
            unit="percentunit",
            high=1,
            line_at=0.95,
        ),
    ),
)
_VERSIONS = Row(
    "Versions",
    (
        graph("Loaded versions", "Versions loaded in each engine.", _each("resident_versions")),
        graph(
            "Time to load a version",
            "Load and probe: the slowest 1% of each engine, over an hour.",
            Query(
                or_none(
                    "histogram_quantile(0.99, sum by (replica, le)"
                    f" (increase(ostler_version_load_seconds_bucket{{{_CHOSEN}}}[1h]))) >= 0",
                    "replica",
                ),
                "{{replica}}",
            ),
            unit="s",
        ),
        graph(
            "Loads and unloads",
            "Per hour. Many of both say that there are more adapters in use than the engines have room for.",
            Query(f"sum(increase(ostler_version_load_seconds_count{{{_CHOSEN}}}[1h]))", "loads"),
            Query(
                or_none(f"sum by (reason) (increase(ostler_unloads_total{{{_CHOSEN}}}[1h]))", "reason"),
                "unloads: {{reason}}",
            ),
        ),
        bars(
            "Version found in its engine",
            "Share of an adapter's requests whose engine had the version loaded, the fifteen lowest.",
            Query("bottomk(15, adapter:ostler_residency_hits:ratio_rate5m)", "{{adapter}}"),
            unit="percentunit",
            steps=((None, RED), (0.5, YELLOW), (0.9, GREEN)),
            high=1,
        ),
        states(
            "Versions left alone",
            "Versions whose own breaker is open: they fail while others on the same engines do not.",
            Query(
                "max by (adapter, version) (ostler_version_breaker_open or 0 * ostler_deployment_weight)",
                "{{adapter}} {{version}}",
            ),
            mappings={0: ("closed", GREEN), 1: ("open", RED)},
            width=8,
            height=8,
        ),
        graph(
            "Sent again",
            "Requests that another engine had to take over, per second.",
            Query(or_none("sum by (reason) (rate(ostler_retries_total[$__rate_interval]))", "reason"), "{{reason}}"),
            unit="reqps",
        ),
    ),
)
_AGENTS = Row(
    "Agents",
    (
        states(
            "Agents",
            "Each agent beside an engine, and whether it reaches the artifact store. Empty where there are no agents.",
            Query(
                'max by (instance) (up{job="ostler-agent"}) == 0'
                " or 1 + max by (instance) (ostler_agent_store_reachable)",
                "{{instance}}",
            ),
            mappings={0: ("down", RED), 1: ("no store", YELLOW), 2: ("up", GREEN)},
            width=12,
            height=7,
        ),
        graph(
            "Cache",
            "Used part of each agent's folder. Full is usual: the versions used longest ago make room for others.",
            Query("max by (instance) (ostler_agent_cache_bytes / ostler_agent_cache_limit_bytes)", "{{instance}}"),
            unit="percentunit",
            high=1,
            width=12,
            height=7,
        ),
        graph(
            "Fetches",
            "Versions per hour that came from the artifact store, that failed to, and that made room for others.",
            Query("sum(increase(ostler_agent_fetches_total[1h]))", "fetched"),
            Query("sum(increase(ostler_agent_evictions_total[1h]))", "evicted"),
            Query(
                or_none("sum by (reason) (increase(ostler_agent_fetch_failures_total[1h]))", "reason"),
                "failed: {{reason}}",
            ),
            width=12,
        ),
        graph(
            "Time to fetch a version",
            "The slowest 1% of each agent, over an hour.",
            Query(
                or_none(
                    "histogram_quantile(0.99, sum by (instance, le)"
                    " (increase(ostler_agent_fetch_seconds_bucket[1h]))) >= 0",
                    "instance",
                ),
                "{{instance}}",
            ),
            unit="s",
            width=12,
        ),
    ),
)

ENGINES = Dashboard(
    "ostler-engines",
    "Ostler / Engines",
    "Which engine is busy, full or down, and what do loads of versions cost?",
    (Variable("replica", "Engine", "label_values(ostler_replica_ready, replica)"),),
    (_NOW, _STATE, _LOAD, _VERSIONS, _AGENTS),
)
