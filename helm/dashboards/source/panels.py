"""The kinds of panels that the dashboards are made of, with one look for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Json = dict[str, Any]

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24

GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "yellow", "orange", "red", "blue", "#8e8e8e"
OK_OR_ALARM = {0: ("OK", GREEN), 1: ("ALARM", RED)}
DOWN_OR_UP = {0: ("down", RED), 1: ("up", GREEN)}


@dataclass(frozen=True)
class Query:
    """One PromQL expression and what its series are called, such as ``{{adapter}}``."""

    expr: str
    legend: str = ""


def or_none(expr: str, label: str) -> str:
    """The same, or 0 with the label's value ``none`` where nothing has been counted yet."""
    return f'{expr} or on () label_replace(vector(0), "{label}", "none", "", "")'


@dataclass(frozen=True)
class Panel:
    """One panel, without its place.

    Attributes:
        kind: Grafana's name of it, such as ``timeseries``.
        unit: Grafana's name of the unit, such as ``s`` or ``percentunit``.
        width, height: in the grid, which is 24 wide.
        steps: from which value on which colour shows; the first begins at None.
        instant: whether only the newest values are asked for, as a table shows them.
    """

    kind: str
    title: str
    description: str
    queries: Sequence[Query]
    unit: str
    width: int
    height: int
    options: Json
    custom: Json = field(default_factory=dict)
    steps: Sequence[tuple[float | None, str]] = ((None, GREEN),)
    mappings: dict[int, tuple[str, str]] = field(default_factory=dict)
    overrides: Sequence[Json] = ()
    transformations: Sequence[Json] = ()
    bounds: Json = field(default_factory=dict)
    color: str = "palette-classic-by-name"
    instant: bool = False

    def build(self, number: int, x: int, y: int) -> Json:
        """As Grafana reads it."""
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [self._target(index, query) for index, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": self._defaults(), "overrides": list(self.overrides)},
            "options": self.options,
            **({"transformations": list(self.transformations)} if self.transformations else {}),
        }

    def _target(self, index: int, query: Query) -> Json:
        return {
            "refId": chr(ord("A") + index),
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": query.expr,
            "legendFormat": query.legend or "__auto",
            "range": not self.instant,
            "instant": self.instant,
            "format": "table" if self.kind == "table" else "time_series",
        }

    def _defaults(self) -> Json:
        found: Json = {
            "unit": self.unit,
            "color": {"mode": self.color},
            "custom": self.custom,
            "mappings": _mappings(self.mappings),
            "thresholds": {
                "mode": "absolute",
                "steps": [{"value": value, "color": color} for value, color in self.steps],
            },
            **self.bounds,
        }
        return found if self.custom else {name: value for name, value in found.items() if name != "custom"}


def _mappings(texts: dict[int, tuple[str, str]]) -> list[Json]:
    shown = {str(value): {"text": text, "color": color} for value, (text, color) in texts.items()}
    return [{"type": "value", "options": shown}] if shown else []


def graph(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    width: int = 8,
    height: int = 8,
    stacked: bool = False,
    line_at: float | None = None,
    overrides: Sequence[Json] = (),
    low: float | None = 0,
    high: float | None = None,
) -> Panel:
    """Lines over time. `line_at` draws a dashed red line there; `low` and `high` bound the axis where they are set."""
    custom: Json = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1 if stacked else 2,
        "fillOpacity": 30 if stacked else 0,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "off" if line_at is None else "dashed"},
    }
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
    return Panel(
        "timeseries",
        title,
        description,
        queries,
        unit,
        width,
        height,
        {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}},
        custom=custom,
        steps=((None, GREEN),) if line_at is None else ((None, GREEN), (line_at, RED)),
        bounds={name: value for name, value in (("min", low), ("max", high)) if value is not None},
        overrides=overrides,
    )


def number(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    width: int = 4,
    height: int = 4,
    steps: Sequence[tuple[float | None, str]] = ((None, BLUE),),
    mappings: dict[int, tuple[str, str]] | None = None,
    decimals: int | None = None,
    text: str = "auto",
) -> Panel:
    """One large number with its course behind it; `text` is ``name`` to show what the series is called instead."""
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "orientation": "auto",
        "textMode": text,
        "wideLayout": True,
        "colorMode": "value",
        "graphMode": "none" if mappings or text == "name" else "area",
        "justifyMode": "auto",
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
    }
    return Panel(
        "stat",
        title,
        description,
        queries,
        unit,
        width,
        height,
        options,
        steps=steps,
        mappings=mappings or {},
        bounds={} if decimals is None else {"decimals": decimals},
        color="thresholds",
    )


def bars(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    width: int = 8,
    height: int = 8,
    steps: Sequence[tuple[float | None, str]] = ((None, BLUE),),
    high: float | None = None,
) -> Panel:
    """The newest value of each series as a bar."""
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "orientation": "horizontal",
        "displayMode": "basic",
        "valueMode": "color",
        "namePlacement": "auto",
        "showUnfilled": True,
        "sizing": "auto",
        "minVizWidth": 8,
        "minVizHeight": 16,
        "maxVizHeight": 32,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
    }
    bounds: Json = {"min": 0} | ({} if high is None else {"max": high})
    return Panel(
        "bargauge", title, description, queries, unit, width, height, options,
        steps=steps, bounds=bounds, color="thresholds", instant=True,
    )  # fmt: skip


def states(
    title: str,
    description: str,
    *queries: Query,
    mappings: dict[int, tuple[str, str]],
    width: int = 12,
    height: int = 6,
) -> Panel:
    """Which state each series was in over time."""
    options = {
        "mergeValues": True,
        "showValue": "auto",
        "alignValue": "left",
        "rowHeight": 0.8,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return Panel(
        "state-timeline", title, description, queries, "short", width, height, options,
        custom={"fillOpacity": 70, "lineWidth": 0}, mappings=mappings, color="thresholds",
    )  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column of a table: a query's value, its heading, and how it is shown."""

    heading: str
    expr: str
    unit: str = "short"
    decimals: int | None = None
    mappings: dict[int, tuple[str, str]] = field(default_factory=dict)


def table(
    title: str,
    description: str,
    keys: dict[str, str],
    columns: Sequence[Column],
    *,
    width: int = COLUMNS,
    height: int = 9,
    link: tuple[str, str] | None = None,
) -> Panel:
    """One line for each combination of labels, one column for each query.

    `keys` has the labels that the queries share, with their headings; `link` the heading whose cells lead somewhere,
    and the address.
    """
    several = len(columns) > 1
    names = {(f"Value #{chr(ord('A') + index)}" if several else "Value"): one for index, one in enumerate(columns)}
    headings = keys | {name: column.heading for name, column in names.items()}
    transformations = [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {"Time": True},
                "indexByName": {name: index for index, name in enumerate(headings)},
                "renameByName": headings,
            },
        },
    ]
    overrides = [_column(column) for column in columns]
    if link is not None:
        shown = [{"title": "Open", "url": link[1]}]
        overrides.append(override(link[0], links=shown))
    panel = Panel(
        "table", title, description, [Query(column.expr) for column in columns], "short", width, height,
        {"frameIndex": 0, "showHeader": True, "cellHeight": "sm"},
        custom={"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False, "filterable": True},
        transformations=transformations, overrides=overrides, color="thresholds", instant=True,
    )  # fmt: skip
    return replace(panel, bounds={"noValue": "-"})


def _column(column: Column) -> Json:
    values: Json = {"unit": column.unit}
    if column.decimals is not None:
        values["decimals"] = column.decimals
    if column.mappings:
        values["mappings"] = _mappings(column.mappings)
        values["custom.cellOptions"] = {"type": "color-text"}
    return override(column.heading, **values)


def override(name: str, **values: Any) -> Json:
    """Other settings for the series or column of that name."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": setting, "value": value} for setting, value in values.items()],
    }


def band(name: str, color: str) -> list[Json]:
    """Shows the series ``NAME low`` and ``NAME high`` as a band of a colour around ``NAME``."""
    paint = {"mode": "fixed", "fixedColor": color}
    hidden = {"legend": True, "tooltip": False, "viz": False}
    edge = {"color": paint, "custom.lineWidth": 0, "custom.hideFrom": hidden}
    return [
        override(name, color=paint),
        override(f"{name} low", **edge),
        override(f"{name} high", **edge, **{"custom.fillBelowTo": f"{name} low", "custom.fillOpacity": 18}),
    ]
