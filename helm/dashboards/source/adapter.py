"""The dashboard 'Adapter against base': how fast, how dear and how good is one adapter beside the base model?

Lines are called by what a version is now (stable, canary), not by its number: so there are few, they keep their
colours, and a mark shows where another version took over.
"""

from helm.dashboards.source.layout import Annotation, Dashboard, Row, Variable
from helm.dashboards.source.panels import (
    BLUE,
    DOWN_OR_UP,
    GREEN,
    GREY,
    OK_OR_ALARM,
    ORANGE,
    RED,
    YELLOW,
    Panel,
    Query,
    band,
    bars,
    graph,
    number,
    or_none,
    override,
    states,
)

_ADAPTER = 'adapter="$adapter"'
_SCORED = f'{_ADAPTER}, scorer="$scorer"'
_COLORS = {"stable": GREEN, "canary": ORANGE, "base": GREY}
_ENDS = (("", ""), ("_low", " low"), ("_high", " high"))

_PAINTED = [override(name, color={"mode": "fixed", "fixedColor": color}) for name, color in _COLORS.items()]


def _deployed(expr: str, variant: str) -> str:
    """Of a metric by version, the value of the one that is deployed as the variant."""
    return f'max({expr} and on (adapter, version) ostler_deployment_weight{{{_ADAPTER}, variant="{variant}"}} > 0)'


def _scores(metric: str, labels: str, variants: tuple[str, ...]) -> list[Query]:
    """A score with both ends of its interval, for each variant."""
    return [
        Query(_deployed(f"{metric}{end}{{{labels}}}", variant), variant + word)
        for variant in variants
        for end, word in _ENDS
    ]


def _bands(*names: str) -> list[dict[str, object]]:
    return [each for name in names for each in band(name, _COLORS[name])]


def _by_variant(title: str, description: str, metric: str, *, base: str, unit: str = "s", width: int = 8) -> Panel:
    """A recorded metric of the stable version, the canary, and the base model."""
    variants = [Query(f'max({metric}{{{_ADAPTER}, variant="{name}"}})', name) for name in ("stable", "canary")]
    lines = (*variants, Query(f"max({metric}{{{base}}})", "base"))
    return graph(title, description, *lines, unit=unit, width=width, overrides=_PAINTED)


_RECORDED = "adapter_version_variant:ostler_"
_SHADOW = f'{_ADAPTER}, variant="shadow", version=""'
_DIRECT = 'variant="base"'

_NOW = Row(
    "Now",
    (
        number(
            "Stable",
            "The version that the adapter's name stands for.",
            Query(f'max by (version) (ostler_deployment_weight{{{_ADAPTER}, variant="stable"}} > 0)', "{{version}}"),
            text="name",
        ),
        number(
            "Canary's share",
            "Share of the sessions that go to the canary; 0 if there is none.",
            Query(f'max(ostler_deployment_weight{{{_ADAPTER}, variant="canary"}}) or vector(0)'),
            unit="percentunit",
        ),
        number(
            "Better than the base by",
            "Mean paired difference of the stable version's scores and the base model's on the same requests.",
            Query(_deployed(f'ostler_quality_difference{{{_SCORED}, against="base"}}', "stable")),
            decimals=3,
            steps=((None, RED), (0, GREEN)),
        ),
        number(
            "Quality",
            "ALARM from the moment on that e-CUSUM says the stable version lost quality.",
            Query(_deployed(f"ostler_quality_alarm{{{_ADAPTER}}}", "stable")),
            mappings=OK_OR_ALARM,
        ),
        number(
            "Drift",
            "ALARM if the newest window of traffic is not like the reference; NO DATA if it was too small to judge.",
            Query(
                _deployed(
                    f"((ostler_drift_detected{{{_ADAPTER}}} and ostler_drift_enough_data{{{_ADAPTER}}} == 1)"
                    f" or 2 * (ostler_drift_enough_data{{{_ADAPTER}}} == bool 0))",
                    "stable",
                )
            ),
            mappings=OK_OR_ALARM | {2: ("NO DATA", YELLOW)},
        ),
        number(
            "Dearer than the base by",
            "Cost of 1,000 requests less what the base model cost for copies of the same requests, over an hour.",
            Query(f"adapter:ostler_cost_per_thousand_requests:minus_base_rate1h{{{_ADAPTER}}}"),
            decimals=4,
        ),
    ),
)
_QUALITY = Row(
    "Quality",
    (
        graph(
            "Score",
            "Mean score of the answers, 0 to 1, with its interval, which holds at every moment.",
            *_scores("ostler_quality_score", _SCORED, ("stable", "canary")),
            unit="percentunit",
            width=12,
            overrides=_bands("stable", "canary"),
            low=None,
            high=1,
        ),
        graph(
            "Difference to the base model",
            "Mean paired difference of the scores on the same requests, with its interval. Above 0 the adapter is"
            " better; an interval without 0 is no chance.",
            *_scores("ostler_quality_difference", f'{_SCORED}, against="base"', ("stable", "canary")),
            width=12,
            overrides=_bands("stable", "canary"),
            line_at=0,
            low=None,
        ),
        graph(
            "Evidence of lost quality",
            "e-CUSUM's evidence over its limit: an alarm from 1 on. A logarithmic axis, as evidence multiplies.",
            Query(_deployed(f"ostler_quality_cusum_ratio{{{_SCORED}}}", "stable"), "stable"),
            Query(_deployed(f"ostler_quality_cusum_ratio{{{_SCORED}}}", "canary"), "canary"),
            line_at=1,
            low=None,
            overrides=[
                *_PAINTED,
                {
                    "matcher": {"id": "byRegexp", "options": ".*"},
                    "properties": [{"id": "custom.scaleDistribution", "value": {"type": "log", "log": 10}}],
                },
            ],
        ),
        graph(
            "Golden set",
            "Mean score on the frozen evaluation set with its interval, and the base model's.",
            *_scores("ostler_golden_score", _SCORED, ("stable",)),
            *(
                Query(f'max(ostler_golden_score{end}{{{_SCORED}, version=~"|0"}})', f"base{word}")
                for end, word in _ENDS
            ),
            unit="percentunit",
            overrides=_bands("stable", "base"),
            low=None,
            high=1,
        ),
        graph(
            "Sessions judged",
            "How many sessions are in the mean score, and how many pairs in the difference to the base model.",
            Query(_deployed(f"ostler_quality_observations{{{_SCORED}}}", "stable"), "sessions"),
            Query(_deployed(f'ostler_quality_pairs{{{_SCORED}, against="base"}}', "stable"), "pairs with the base"),
        ),
    ),
)
_LATENCY = Row(
    "Latency",
    (
        _by_variant(
            "Duration, slowest 1%",
            "From a request's arrival to its last byte. The base model's is that of shadow copies, which come last in"
            " the engine and are never streamed.",
            f"{_RECORDED}request_duration_seconds:p99_5m",
            base=_SHADOW,
        ),
        _by_variant(
            "Time to first token, slowest 1%",
            "Of streams. The base model's is that of clients' own requests to it.",
            f"{_RECORDED}time_to_first_token_seconds:p99_5m",
            base=_DIRECT,
        ),
        _by_variant(
            "Time per output token, median",
            "Of streams, without the first token. The base model's is that of clients' own requests to it.",
            f"{_RECORDED}time_per_output_token_seconds:p50_5m",
            base=_DIRECT,
        ),
    ),
)
_COST = Row(
    "Cost",
    (
        graph(
            "Cost of 1,000 requests",
            "Over the last day, from the request log, by variant; in the currency of the prices in the settings.",
            Query(f"max by (variant) (ostler_cost_per_thousand_requests{{{_ADAPTER}}})", "{{variant}}"),
            overrides=_PAINTED,
        ),
        graph(
            "Cost per hour by variant",
            "What the adapter's requests cost, shadow copies and the monitor's evaluations among them.",
            Query(f"sum by (variant) (3600 * rate(ostler_cost_total{{{_ADAPTER}}}[5m]))", "{{variant}}"),
            stacked=True,
        ),
        graph(
            "Tokens per request",
            "Mean length of clients' prompts (input) and answers (output), and the base model's on shadow copies.",
            *(
                Query(
                    f'sum(rate(ostler_tokens_total{{{labels}, gen_ai_token_type="{way}"}}[5m]))'
                    f" / (sum(rate(ostler_requests_total{{{labels}}}[5m])) > 0)",
                    f"{way}{word}",
                )
                for labels, word in ((f'{_ADAPTER}, variant!~"shadow|evaluation"', ""), (_SHADOW, ", base"))
                for way in ("input", "output")
            ),
        ),
    ),
)
_CANARY = Row(
    "Canary beside stable",
    (
        graph(
            "Requests by version",
            "Clients' requests per second.",
            Query(
                "sum by (version, variant) (rate(ostler_requests_total"
                f'{{{_ADAPTER}, variant!~"shadow|evaluation"}}[$__rate_interval]))',
                "{{variant}} {{version}}",
            ),
            unit="reqps",
            width=6,
            stacked=True,
        ),
        _by_variant(
            "Failed requests",
            "Share of requests that failed, over 5 minutes. The base model's is that of shadow copies.",
            f"{_RECORDED}request_errors:ratio_rate5m",
            base=_SHADOW,
            unit="percentunit",
            width=6,
        ),
        graph(
            "Canary's difference to stable",
            "Mean paired difference of the canary's scores and the stable version's, with its interval.",
            *_scores("ostler_quality_difference", f'{_SCORED}, against="stable"', ("canary",)),
            width=6,
            overrides=_bands("canary"),
            line_at=0,
            low=None,
        ),
        graph(
            "Shares",
            "Share of the sessions that each version gets.",
            Query(f"max by (version, variant) (ostler_deployment_weight{{{_ADAPTER}}})", "{{variant}} {{version}}"),
            unit="percentunit",
            width=6,
            high=1,
            stacked=True,
        ),
    ),
)
_LOOP = Row(
    "Loop",
    (
        number(
            "Phase",
            "What the loop has under way: it watches, a job is tuning, a version is rolling out, or some sessions are"
            " held back from one.",
            Query(f"max by (phase) (ostler_loop_phase{{{_ADAPTER}}} == 1)", "{{phase}}"),
            text="name",
        ),
        number(
            "Stopped",
            "Whether somebody paused the loop for the adapter, or froze all automatic change.",
            Query(f"max(ostler_loop_paused{{{_ADAPTER}}}) + 2 * max(ostler_loop_frozen)"),
            mappings={0: ("NO", GREEN), 1: ("PAUSED", YELLOW), 2: ("FROZEN", RED), 3: ("FROZEN", RED)},
        ),
        number(
            "Waits for approval",
            "For how long; 0 if nothing does. `ostler why NAME` says what, `ostler approve NAME` answers.",
            Query(f"max(ostler_loop_approval_wait_seconds{{{_ADAPTER}}})"),
            unit="s",
            steps=((None, GREEN), (1, YELLOW), (86_400, RED)),
        ),
        number(
            "Labels",
            "Requests that got a correction or were accepted since the last training, before repeats are left out.",
            Query(f"max(ostler_loop_labels{{{_ADAPTER}}})"),
        ),
        number(
            "Not carried out for",
            "How long ago something was decided that is not done yet; 0 if nothing is under way.",
            Query(f"max(ostler_loop_pending_seconds{{{_ADAPTER}}})"),
            unit="s",
            steps=((None, GREEN), (60, YELLOW), (900, RED)),
        ),
        number(
            "Last decision",
            "How long ago the loop last decided something new, also if that was to wait for something else.",
            Query(f"time() - max(ostler_loop_last_decision_timestamp_seconds{{{_ADAPTER}}})"),
            unit="s",
        ),
        graph(
            "Evidence about the new version",
            "Over what establishes it, in nats: not worse by what matters promotes it after its last step, worse takes"
            " it back, each from 1 on.",
            Query(f"max by (finding) (ostler_loop_canary_evidence_ratio{{{_ADAPTER}}})", "{{finding}}"),
            line_at=1,
            overrides=[
                override("not_worse", color={"mode": "fixed", "fixedColor": GREEN}),
                override("worse", color={"mode": "fixed", "fixedColor": RED}),
            ],
        ),
        states(
            "Phases",
            "What the loop had under way when.",
            Query(f"max by (phase) (ostler_loop_phase{{{_ADAPTER}}})", "{{phase}}"),
            mappings={0: ("", GREY), 1: ("now", BLUE)},
            width=8,
            height=8,
        ),
        graph(
            "What it did",
            "What the loop did so far. `ostler decisions NAME --kind loop` tells why.",
            Query(f"max by (act) (ostler_loop_acts{{{_ADAPTER}}})", "{{act}}"),
        ),
    ),
)
_DRIFT = Row(
    "Drift",
    (
        graph(
            "Drift by column",
            "How far the newest window lies from the reference, over the column's threshold; drifted above 1.",
            Query(
                f"max by (column) (ostler_drift_ratio{{{_ADAPTER}}} and on (adapter, version)"
                f' ostler_deployment_weight{{{_ADAPTER}, variant="stable"}} > 0)',
                "{{column}}",
            ),
            line_at=1,
        ),
        bars(
            "Columns now",
            "The same, of the newest window.",
            Query(
                f"sort_desc(max by (column) (ostler_drift_ratio{{{_ADAPTER}}} and on (adapter, version)"
                f' ostler_deployment_weight{{{_ADAPTER}, variant="stable"}} > 0))',
                "{{column}}",
            ),
            steps=((None, GREEN), (0.8, YELLOW), (1, RED)),
        ),
        graph(
            "Rows of the window",
            "How many requests the newest window held.",
            Query(_deployed(f"ostler_drift_window_rows{{{_ADAPTER}}}", "stable"), "rows"),
            overrides=[override("rows", color={"mode": "fixed", "fixedColor": BLUE})],
        ),
    ),
)
_WATCHED = Row(
    "How it is watched",
    (
        graph(
            "Shadow copies",
            "Copies of the adapter's requests by how they ended, per second: the pairs for the comparison.",
            Query(
                or_none(
                    f"sum by (outcome) (rate(ostler_shadow_requests_total{{{_ADAPTER}}}[$__rate_interval]))", "outcome"
                ),
                "{{outcome}}",
            ),
            unit="reqps",
        ),
        graph(
            "Decisions",
            "What the monitor concluded so far, by kind and outcome. `ostler decisions NAME` tells why.",
            Query(
                f"max by (kind, outcome) (ostler_decisions{{{_ADAPTER}}})",
                "{{kind}}: {{outcome}}",
            ),
        ),
        states(
            "Breakers",
            "Whether each version is served; down is one that failed too often and is left alone.",
            Query(
                f"1 - max by (version) (ostler_version_breaker_open{{{_ADAPTER}}}"
                f" or 0 * ostler_deployment_weight{{{_ADAPTER}}})",
                "version {{version}}",
            ),
            mappings=DOWN_OR_UP,
            width=8,
            height=8,
        ),
    ),
)
_MARKS = (
    (
        "Training begun by the loop",
        "retrain",
        "The loop asked for a training; `ostler why {{adapter}}` says why.",
        BLUE,
    ),
    ("Promoted by the loop", "promote", "The loop promoted a version of {{adapter}}.", GREEN),
    ("Rolled back by the loop", "roll_back", "The loop took a version of {{adapter}} back.", ORANGE),
)

ADAPTER = Dashboard(
    "ostler-adapter",
    "Ostler / Adapter against base",
    "How fast, how dear and how good is one adapter beside the base model?",
    (
        Variable("adapter", "Adapter", "label_values(ostler_deployment_revision, adapter)", several=False),
        Variable("scorer", "Scorer", 'label_values(ostler_quality_score{adapter="$adapter"}, scorer)', several=False),
    ),
    (_NOW, _QUALITY, _LATENCY, _COST, _CANARY, _LOOP, _DRIFT, _WATCHED),
    annotations=(
        Annotation(
            "Deployment changed",
            f"max by (adapter) (changes(ostler_deployment_revision{{{_ADAPTER}}}[2m])) > 0",
            "The deployment of {{adapter}} changed; `ostler history {{adapter}}` tells how.",
        ),
        Annotation(
            "Quality lost",
            f"max by (adapter, version) (ostler_quality_alarm{{{_ADAPTER}}}) == 1",
            "Version {{version}} of {{adapter}} is in alarm.",
            RED,
        ),
        *(
            Annotation(
                name,
                f'max by (adapter) (changes(ostler_loop_acts{{{_ADAPTER}, act="{act}"}}[2m])) > 0',
                text,
                color,
            )
            for name, act, text, color in _MARKS
        ),
    ),
    since="now-24h",
)
