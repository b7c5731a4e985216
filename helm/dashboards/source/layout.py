"""How a dashboard is put together: its choices, its marks, and rows that lay their panels out by themselves."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from helm.dashboards.source.panels import BLUE, COLUMNS, SOURCE, Panel

Json = dict[str, Any]

_SCHEMA_VERSION = 39  # the newest that Grafana 11 writes; later ones read it


@dataclass(frozen=True)
class Row:
    """A heading, and the panels below it from left to right, in as many lines as they need."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Variable:
    """A choice at the top, filled from the values of a label."""

    name: str
    label: str
    query: str
    several: bool = True

    def build(self) -> Json:
        """As Grafana reads it."""
        everything: Json = {"includeAll": True, "multi": True, "allValue": ".*", "current": _ALL}
        return {
            "name": self.name,
            "label": self.label,
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": self.query, "refId": self.name},
            "refresh": 2,
            "sort": 7,
            **(everything if self.several else {"includeAll": False, "multi": False}),
        }


_ALL = {"text": ["All"], "value": ["$__all"]}
_DATASOURCE: Json = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


@dataclass(frozen=True)
class Annotation:
    """Marks on every graph where the expression is true."""

    name: str
    expr: str
    text: str
    color: str = BLUE

    def build(self) -> Json:
        """As Grafana reads it."""
        return {
            "name": self.name,
            "datasource": SOURCE,
            "enable": True,
            "iconColor": self.color,
            "target": {"refId": "Anno", "expr": self.expr, "interval": "60s"},
            "titleFormat": self.name,
            "textFormat": self.text,
        }


@dataclass(frozen=True)
class Dashboard:
    """A whole dashboard; `uid` is its address, which never changes."""

    uid: str
    title: str
    description: str
    variables: Sequence[Variable]
    rows: Sequence[Row]
    annotations: Sequence[Annotation] = ()
    since: str = "now-6h"

    def build(self) -> Json:
        """As Grafana reads it."""
        panels = list(self._panels())
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["ostler"],
            "schemaVersion": _SCHEMA_VERSION,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": self.since, "to": "now"},
            "timezone": "browser",
            "links": [_LINKS],
            "templating": {"list": [_DATASOURCE, *(variable.build() for variable in self.variables)]},
            "annotations": {"list": [annotation.build() for annotation in self.annotations]},
            "panels": panels,
        }

    def _panels(self) -> Iterator[Json]:
        y = 0
        for row in self.rows:
            place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
            # Numbers follow from titles, so that a panel keeps its address when another one is added.
            yield {
                "id": _stable_id(f"row {row.title}"), "type": "row", "title": row.title,
                "collapsed": False, "gridPos": place, "panels": [],
            }  # fmt: skip
            y += 1
            x = 0
            for panel in row.panels:
                yield panel.build(_stable_id(f"{row.title}/{panel.title}"), x, y)
                x += panel.width
                if x >= COLUMNS:
                    x, y = 0, y + panel.height


def _stable_id(title: str) -> int:
    return int.from_bytes(hashlib.sha256(title.encode()).digest()[:3])


_LINKS = {
    "type": "dashboards",
    "title": "Ostler",
    "tags": ["ostler"],
    "asDropdown": True,
    "includeVars": True,
    "keepTime": True,
    "targetBlank": False,
    "icon": "external link",
    "tooltip": "The other dashboards",
}
