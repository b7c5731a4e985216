"""What the tests know, as the monitor's metrics; set from their stored state, so a restart shows them again."""

import contextlib
from collections.abc import Mapping
from typing import Any

from prometheus_client import Gauge

from monitors.judging.pairing import BASE, LEVEL
from monitors.watch.metrics import MonitorMetrics
from registry.catalog import Adapter, Catalog

STABLE = "stable"

Key = tuple[str, int, str, str]
"""A test: adapter, version, scorer, and what the observations are held against."""


class QualityGauges:
    """The metrics of quality, of versions in service alone, so that these do not grow for ever.

    A comparison with another version is shown while that one is the stable one.
    """

    def __init__(self, metrics: MonitorMetrics) -> None:
        self._metrics = metrics
        self._shown: dict[Key, list[tuple[Gauge, tuple[str, ...]]]] = {}

    def show(self, summaries: Mapping[Key, Mapping[str, Any]], catalog: Catalog) -> None:
        """Set the gauges of these tests from what is shown of their states."""
        for key in summaries:
            self._forget(key)
        for key, summary in summaries.items():
            labels = _labels(key, catalog)
            if labels is not None:
                self._set(key, labels, self._level(summary) if key[3] == LEVEL else self._difference(summary))
                self._set(key, _watched_labels(key, catalog), self._watch(summary.get("watch")))

    def forget_others(self, catalog: Catalog) -> None:
        """Forget the versions that are archived or gone, and comparisons with what is no longer stable."""
        for key in [key for key in self._shown if _labels(key, catalog) is None]:
            self._forget(key)

    def _set(self, key: Key, labels: tuple[str, ...], values: Mapping[Gauge, float]) -> None:
        for gauge, value in values.items():
            gauge.labels(*labels).set(value)
        self._shown.setdefault(key, []).extend((gauge, labels) for gauge in values)

    def _forget(self, key: Key) -> None:
        for gauge, labels in self._shown.pop(key, []):
            with contextlib.suppress(KeyError):
                gauge.remove(*labels)

    def _level(self, summary: Mapping[str, Any]) -> dict[Gauge, float]:
        metrics = self._metrics
        found: dict[Gauge, float] = {metrics.observations: summary["observations"]}
        if summary["observations"]:
            found[metrics.score] = summary["mean"]
            found[metrics.score_low], found[metrics.score_high] = summary["low"], summary["high"]
        return found

    def _watch(self, watch: Mapping[str, Any] | None) -> dict[Gauge, float]:
        if watch is None:
            return {}
        return {self._metrics.cusum: watch["ratio"], self._metrics.alarm: float(watch["alarm"])}

    def _difference(self, summary: Mapping[str, Any]) -> dict[Gauge, float]:
        metrics = self._metrics
        found: dict[Gauge, float] = {metrics.pairs: summary["observations"]}
        if summary["observations"]:
            found[metrics.difference] = summary["mean"]
            found[metrics.difference_low], found[metrics.difference_high] = summary["low"], summary["high"]
        return found


def _labels(key: Key, catalog: Catalog) -> tuple[str, ...] | None:
    """The labels that a test is shown under; None if it is not."""
    name, number, scorer, against = key
    adapter = catalog.adapters.get(name)
    version = adapter.versions.get(number) if adapter else None
    if adapter is None or version is None or version.archived:
        return None
    labels = (name, str(number), scorer)
    if against == LEVEL:
        return labels
    shown = BASE if against == BASE else _stable(adapter, against)
    return None if shown is None else (*labels, shown)


def _watched_labels(key: Key, catalog: Catalog) -> tuple[str, ...]:
    """The labels of a watch: between two versions it is over the stable one, though the test is of the other."""
    name, number, scorer, against = key
    stable = catalog.adapters[name].stable
    watched = number if against in (LEVEL, BASE) or stable is None else stable.number
    return name, str(watched), scorer


def _stable(adapter: Adapter, engine_name: str) -> str | None:
    return STABLE if adapter.stable is not None and adapter.stable.engine_name == engine_name else None
