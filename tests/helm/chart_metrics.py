"""Which series the chart's autoscalers speak of."""

import re
from collections.abc import Iterator

from tests.helm.chart import VALUE_SETS, Rendered, rendered

_WORDS = {"and", "bool", "by", "group_left", "group_right", "ignoring", "offset", "on", "or", "unless", "without"}


def metric_names(expr: str) -> set[str]:
    """The series of a PromQL expression: what is no function, no label, no word of the language, and in no string."""
    bare = re.sub(r'"[^"]*"', "", expr)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", bare)
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    found = re.findall(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?![\w:]|\s*\()", bare)
    return set(found) - _WORDS


def scaling_queries(chart: Rendered) -> Iterator[str]:
    """The queries of KEDA's triggers."""
    for each in chart.of("ScaledObject"):
        for trigger in each["spec"]["triggers"]:
            if trigger["type"] == "prometheus":
                yield trigger["metadata"]["query"]


def custom_metrics(chart: Rendered) -> Iterator[str]:
    """The series of pods and of others that an HPA wants from an adapter, whose names have no colon."""
    for each in chart.of("HorizontalPodAutoscaler"):
        for metric in each["spec"].get("metrics", []):
            if metric["type"] != "Resource":
                name: str = metric[metric["type"].lower()]["metric"]["name"]
                yield name.replace("vllm_", "vllm:", 1)


def engine_series() -> set[str]:
    """Every series of vLLM that any value set scales by."""
    charts = [rendered(each) for each in VALUE_SETS]
    queried = {name for chart in charts for query in scaling_queries(chart) for name in metric_names(query)}
    return {name for name in queried | {name for chart in charts for name in custom_metrics(chart)} if "vllm:" in name}
