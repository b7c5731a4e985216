"""The dashboard 'Overview': is everything all right, and if not, with which adapter?"""

from helm.dashboards.source.layout import Dashboard, Row, Variable
from helm.dashboards.source.panels import (
    DOWN_OR_UP,
    GREEN,
    OK_OR_ALARM,
    ORANGE,
    RED,
    YELLOW,
    Column,
    Query,
    bars,
    graph,
    number,
    or_none,
    states,
    table,
)

CHOSEN = 'adapter=~"$adapter"'
CLIENTS = f'{CHOSEN}, variant!~"shadow|evaluation"'


def named(expr: str) -> str:
    """The same with a word for what is of no adapter: the base model, and requests that reached nothing."""
    return f'label_replace({expr}, "adapter", "no adapter", "adapter", "")'


def _finding(metric: str) -> str:
    """What the monitor found of a version, once for each way in which that version is deployed."""
    deployed = f"ostler_deployment_weight{{{CHOSEN}}} >= bool 0"
    found = f"max by (adapter, version) ({metric}) * on (adapter, version) group_right () ({deployed})"
    return f"max by (adapter, version, variant) ({found})"


_NOW = Row(
    "Now",
    (
        number(
            "Requests",
            "Clients' requests that ended, per second, over 5 minutes.",
            Query("ostler:requests:rate5m"),
            unit="reqps",
        ),
        number(
            "Failed",
            "Share of clients' requests that ended with a status of 5xx or a broken stream, over 5 minutes.",
            Query("sum(ostler:request_errors:ratio_rate5m) or vector(0)"),
            unit="percentunit",
            decimals=2,
            steps=((None, GREEN), (0.001, YELLOW), (0.0144, RED)),
        ),
        number(
            "Slowest 1%",
            "The time within which 99% of clients' requests were answered to the end, over 5 minutes.",
            Query("ostler:request_duration_seconds:p99_5m"),
            unit="s",
            steps=((None, GREEN), (10, YELLOW), (30, RED)),
        ),
        number(
            "In flight",
            "Requests being served, and those that wait for a place.",
            Query("sum(ostler_requests_in_flight)", "served"),
            Query("sum(ostler_requests_queued)", "queued"),
        ),
        number(
            "Engines ready",
            "Engines that serve, by what any gateway sees.",
            Query("sum(max by (replica) (ostler_replica_ready))"),
            steps=((None, RED), (1, GREEN)),
        ),
        number(
            "Alerts",
            "Alerts of Ostler that fire. docs/runbooks.md says of each what to do.",
            Query('count(ALERTS{alertname=~"Ostler.*", alertstate="firing"}) or vector(0)'),
            steps=((None, GREEN), (1, RED)),
        ),
    ),
)
_ADAPTERS = Row(
    "Adapters",
    (
        table(
            "Adapters",
            "Each version that is deployed or was asked for. A click on an adapter opens its own dashboard.",
            {"adapter": "Adapter", "version": "Version", "variant": "Variant"},
            (
                Column(
                    "Weight",
                    f"max by (adapter, version, variant) (ostler_deployment_weight{{{CHOSEN}}}) > 0",
                    "percentunit",
                ),
                Column(
                    "Requests/s", f'adapter_version_variant:ostler_requests:rate5m{{{CHOSEN}, version!=""}}', "reqps"
                ),
                Column(
                    "Failed",
                    f'adapter_version_variant:ostler_request_errors:ratio_rate5m{{{CHOSEN}, version!=""}}',
                    "percentunit",
                    2,
                ),
                Column(
                    "Slowest 1%",
                    f'adapter_version_variant:ostler_request_duration_seconds:p99_5m{{{CHOSEN}, version!=""}}',
                    "s",
                    2,
                ),
                Column(
                    "Cost per 1,000",
                    f'adapter_version_variant:ostler_cost_per_thousand_requests:rate1h{{{CHOSEN}, version!=""}}',
                    decimals=4,
                ),
                Column("Quality", _finding("ostler_quality_alarm"), mappings=OK_OR_ALARM),
                Column("Drift", _finding("ostler_drift_detected"), mappings=OK_OR_ALARM),
            ),
            link=("Adapter", "/d/ostler-adapter?var-adapter=${__value.text}&${__url_time_range}"),
        ),
    ),
)
_REQUESTS = Row(
    "Requests",
    (
        graph(
            "Requests by adapter",
            "Clients' requests that ended, per second.",
            Query(
                named(f"sum by (adapter) (rate(ostler_requests_total{{{CLIENTS}}}[$__rate_interval]))"), "{{adapter}}"
            ),
            unit="reqps",
            stacked=True,
        ),
        graph(
            "Requests by status",
            "The same by HTTP status; 499 is a client that went away.",
            Query(f"sum by (status) (rate(ostler_requests_total{{{CLIENTS}}}[$__rate_interval]))", "{{status}}"),
            unit="reqps",
            stacked=True,
        ),
        graph(
            "Requests by variant",
            "How they were served. Shadow copies and the monitor's evaluations are requests of our own.",
            Query(f"sum by (variant) (rate(ostler_requests_total{{{CHOSEN}}}[$__rate_interval]))", "{{variant}}"),
            unit="reqps",
            stacked=True,
        ),
        graph(
            "Failed requests by adapter",
            "Share of clients' requests that failed, over 5 minutes.",
            Query(named(f"adapter:ostler_request_errors:ratio_rate5m{{{CHOSEN}}}"), "{{adapter}}"),
            unit="percentunit",
        ),
        graph(
            "Error budget",
            "How many times faster than sustainable the month's budget of 0.1% is used up; 1 lasts the month.",
            *(
                Query(f"ostler:request_errors:ratio_rate{window} / 0.001 or vector(0)", f"over {window}")
                for window in ("1h", "6h", "3d")
            ),
            line_at=14.4,
        ),
        graph(
            "Turned away and sent again",
            "Requests refused before they reached an engine, and those sent again to another engine, per second.",
            Query(
                or_none("sum by (reason) (rate(ostler_rejected_total[$__rate_interval]))", "reason"),
                "refused: {{reason}}",
            ),
            Query(
                or_none("sum by (reason) (rate(ostler_retries_total[$__rate_interval]))", "reason"),
                "sent again: {{reason}}",
            ),
            unit="reqps",
        ),
    ),
)
_LATENCY = Row(
    "Latency",
    (
        graph(
            "Duration",
            "From a request's arrival to its last byte: the slowest 1% of each adapter's, over 5 minutes.",
            Query(named(f"adapter:ostler_request_duration_seconds:p99_5m{{{CHOSEN}}}"), "{{adapter}}"),
            unit="s",
            line_at=30,
        ),
        graph(
            "Time to first token",
            "Of streams, from arrival to the engine's first event: the slowest 1%, over 5 minutes.",
            Query(named(f"adapter:ostler_time_to_first_token_seconds:p99_5m{{{CHOSEN}}}"), "{{adapter}}"),
            unit="s",
            line_at=5,
        ),
        graph(
            "The gateway's own part",
            "What the gateway adds to a request, without engine, queue, load and client; and the wait in its queue.",
            Query("ostler:gateway_overhead_seconds:p99_5m", "gateway, slowest 1%"),
            Query(
                "sum(rate(ostler_queue_seconds_sum[5m]))"
                " / (sum(rate(ostler_queue_seconds_count[5m])) > 0) or vector(0)",
                "queue, mean of those that waited",
            ),
            unit="s",
        ),
    ),
)
_COST = Row(
    "Tokens and cost",
    (
        graph(
            "Tokens",
            "As the engines counted them, per second.",
            Query(
                f"sum by (gen_ai_token_type) (rate(ostler_tokens_total{{{CHOSEN}}}[$__rate_interval]))",
                "{{gen_ai_token_type}}",
            ),
            unit="short",
        ),
        graph(
            "Cost per hour by adapter",
            "In the currency of the prices in the settings; 0 where none is set.",
            Query(named(f"sum by (adapter) (3600 * rate(ostler_cost_total{{{CHOSEN}}}[5m]))"), "{{adapter}}"),
            stacked=True,
        ),
        bars(
            "Dearest adapters",
            "Cost over the chosen time, in the currency of the prices.",
            Query(
                named(f"topk(10, sum by (adapter) (increase(ostler_cost_total{{{CHOSEN}}}[$__range])))"), "{{adapter}}"
            ),
        ),
    ),
)
_GATEWAY = Row(
    "Gateways",
    (
        graph(
            "Request records",
            "Written to the database and lost, per second; captures are prompts with their answers.",
            *(
                query
                for what in ("records", "captures")
                for query in (
                    Query(f"sum(rate(ostler_{what}_written_total[$__rate_interval]))", f"{what} written"),
                    Query(f"sum(rate(ostler_{what}_dropped_total[$__rate_interval])) or vector(0)", f"{what} lost"),
                )
            ),
        ),
        graph(
            "Records that wait",
            "Records that wait to be written; past the setting record_buffer they are lost.",
            Query("sum by (instance) (ostler_records_buffered)", "{{instance}}"),
        ),
        states(
            "Database",
            "Whether each gateway reaches the database.",
            Query("min by (instance) (ostler_database_reachable)", "{{instance}}"),
            mappings=DOWN_OR_UP,
            width=8,
            height=8,
        ),
        graph(
            "Shadow requests",
            "Copies sent to another version or the base, by how they ended, and those that gave way, per second.",
            Query(
                or_none("sum by (outcome) (rate(ostler_shadow_requests_total[$__rate_interval]))", "outcome"),
                "{{outcome}}",
            ),
            Query("sum(rate(ostler_shadow_dropped_total[$__rate_interval])) or vector(0)", "dropped"),
            unit="reqps",
        ),
        graph(
            "Deployment changes",
            "From the call of a promote or rollback until it is served: mean over an hour.",
            Query(
                or_none(
                    "sum by (action) (increase(ostler_deployment_change_seconds_sum[1h]))"
                    " / (sum by (action) (increase(ostler_deployment_change_seconds_count[1h])) > 0)",
                    "action",
                ),
                "{{action}}",
            ),
            unit="s",
        ),
        bars(
            "Version found in its engine",
            "Share of an adapter's requests whose engine had the version loaded, the ten lowest.",
            Query(f"bottomk(10, adapter:ostler_residency_hits:ratio_rate5m{{{CHOSEN}}})", "{{adapter}}"),
            unit="percentunit",
            steps=((None, ORANGE), (0.9, GREEN)),
            high=1,
        ),
    ),
)

OVERVIEW = Dashboard(
    "ostler-overview",
    "Ostler / Overview",
    "Is everything all right, and if not, with which adapter?",
    (Variable("adapter", "Adapter", 'label_values(ostler_requests_total{adapter!=""}, adapter)'),),
    (_NOW, _ADAPTERS, _REQUESTS, _LATENCY, _COST, _GATEWAY),
)
