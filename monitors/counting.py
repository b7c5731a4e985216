"""Counters and histograms that only one thread counts in, and any may read: for what every finished request counts.

The library's own take a lock for each number and try a histogram's buckets one after another, several times the work.
They are for many threads and, with files, for several processes, which these are not.
"""

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from math import inf
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Child = TypeVar("Child")


class Count:
    """One counter of a family."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add to it."""
        self.value += amount


class Distribution:
    """One histogram of a family; `counts` has for each bucket, the last without a bound, what fell into it alone."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, amount: float) -> None:
        """Count it in the first bucket whose bound is not below it."""
        self.counts[bisect_left(self._bounds, amount)] += 1
        self.sum += amount


class _Family(Collector, Generic[Child]):
    # `_name`, `_type` and `_labelnames` are called as the library calls them, by whoever asks what is declared.
    _type: str

    def __init__(self, name: str, help: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name = name
        self._help = help
        self._labelnames = tuple(labels)
        self._children: dict[tuple[str, ...], Child] = {}
        if not labels:
            self.labels()  # a series without labels is told from the beginning
        registry.register(self)

    def labels(self, *values: str) -> Child:
        """The series of these labels."""
        if (child := self._children.get(values)) is None:
            child = self._children[values] = self._new()
        return child

    def remove_by_labels(self, labels: Mapping[str, str]) -> None:
        """Let all series that have these labels disappear."""
        wanted = {self._labelnames.index(name): value for name, value in labels.items()}
        for values in [*self._children]:
            if all(values[place] == value for place, value in wanted.items()):
                del self._children[values]

    def describe(self) -> Iterable[Metric]:
        """The name, so that the registry refuses a second metric that has it."""
        return [Metric(self._name, self._help, self._type)]

    @abstractmethod
    def _new(self) -> Child: ...

    def _now(self) -> Sequence[tuple[tuple[str, ...], Child]]:
        """The series; a list, because others may come while they are told."""
        return [*self._children.items()]


class Counters(_Family[Count]):
    """A counter with labels."""

    _type = "counter"

    def _new(self) -> Count:
        return Count()

    def collect(self) -> Iterable[Metric]:
        """All of it as the library tells it."""
        family = CounterMetricFamily(self._name, self._help, labels=self._labelnames)
        for labels, child in self._now():
            family.add_metric(labels, child.value)
        yield family


class Histograms(_Family[Distribution]):
    """A histogram with labels; `bounds` are the buckets' upper ones, ascending, without the infinite one."""

    _type = "histogram"

    def __init__(
        self, name: str, help: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._bounds = tuple(bounds)
        self._spelt: list[str] = [floatToGoString(bound) for bound in (*bounds, inf)]  # type: ignore[no-untyped-call]
        super().__init__(name, help, labels, registry)

    def _new(self) -> Distribution:
        return Distribution(self._bounds)

    def collect(self) -> Iterable[Metric]:
        """All of it as the library tells it."""
        family = HistogramMetricFamily(self._name, self._help, labels=self._labelnames)
        for labels, child in self._now():
            cumulative = accumulate(child.counts)
            family.add_metric(labels, list(zip(self._spelt, cumulative, strict=True)), child.sum)
        yield family
