"""Counters and histograms that only one thread counts in, and any may read: for what every finished request counts.

The library's own take a lock for each number and try a histogram's buckets one after another, several times the work.
They are for many threads, which these are not. With several processes these put what they have counted into the
library's files now and then, from which each process tells the numbers of all.
"""

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from math import inf
from typing import Generic, Protocol, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from prometheus_client.values import ValueClass

from monitors.exposition import is_of_several_processes


class _Shared(Protocol):
    """A number in this process's file, to which those of the others are added when it is told."""

    def inc(self, amount: float) -> None: ...


class _Child(Protocol):
    def publish(self) -> None: ...


Child = TypeVar("Child", bound=_Child)


class Count:
    """One counter of a family; `shared` is where other processes see it, if there are any."""

    __slots__ = ("_published", "_shared", "value")

    def __init__(self, shared: _Shared | None) -> None:
        self._shared = shared
        self._published = self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add to it."""
        self.value += amount

    def publish(self) -> None:
        """Let other processes see what has been added since the last time."""
        more = self.value - self._published
        if self._shared is not None and more:
            self._shared.inc(more)
            self._published = self.value


class Distribution:
    """One histogram of a family; `counts` has for each bucket, the last without a bound, what fell into it alone.

    Args:
        bounds: the buckets' upper ones, without the infinite one.
        shared: where other processes see each bucket, if there are any.
        shared_sum: and where the sum.
    """

    __slots__ = ("_bounds", "_published", "_published_sum", "_shared", "_shared_sum", "counts", "sum")

    def __init__(self, bounds: Sequence[float], shared: Sequence[_Shared], shared_sum: _Shared | None) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = self._published_sum = 0.0
        self._published = [*self.counts]
        self._shared = shared
        self._shared_sum = shared_sum

    def observe(self, amount: float) -> None:
        """Count it in the first bucket whose bound is not below it."""
        self.counts[bisect_left(self._bounds, amount)] += 1
        self.sum += amount

    def publish(self) -> None:
        """Let other processes see what has been counted since the last time."""
        if self._shared_sum is None or self.counts == self._published:
            return
        for shared, now, before in zip(self._shared, self.counts, self._published, strict=True):
            if now != before:
                shared.inc(now - before)
        self._shared_sum.inc(self.sum - self._published_sum)
        self._published, self._published_sum = [*self.counts], self.sum


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
            child = self._children[values] = self._new(values)
        return child

    def remove_by_labels(self, labels: Mapping[str, str]) -> None:
        """Let all series that have these labels disappear."""
        wanted = {self._labelnames.index(name): value for name, value in labels.items()}
        for values in [*self._children]:
            if all(values[place] == value for place, value in wanted.items()):
                del self._children[values]

    def publish(self) -> None:
        """Let other processes see what has been counted. It is for the thread that counts."""
        if is_of_several_processes():
            for child in self._children.values():
                child.publish()

    def describe(self) -> Iterable[Metric]:
        """The name, so that the registry refuses a second metric that has it."""
        return [Metric(self._name, self._help, self._type)]

    @abstractmethod
    def _new(self, labels: tuple[str, ...]) -> Child: ...

    def _share(self, suffix: str, labels: tuple[str, ...], *, bound: str | None = None) -> _Shared:
        """A number of the library's, in a file of this process; what is there under its name already is kept."""
        names = self._labelnames if bound is None else (*self._labelnames, "le")
        labels = labels if bound is None else (*labels, bound)
        shared: _Shared = ValueClass(self._type, self._name, self._name + suffix, names, labels, self._help)
        return shared

    def _now(self) -> Sequence[tuple[tuple[str, ...], Child]]:
        """The series; a list, because others may come while they are told."""
        return [*self._children.items()]


class Counters(_Family[Count]):
    """A counter with labels."""

    _type = "counter"

    def _new(self, labels: tuple[str, ...]) -> Count:
        return Count(self._share("_total", labels) if is_of_several_processes() else None)

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

    def _new(self, labels: tuple[str, ...]) -> Distribution:
        if not is_of_several_processes():
            return Distribution(self._bounds, (), None)
        buckets = [self._share("_bucket", labels, bound=bound) for bound in self._spelt]
        return Distribution(self._bounds, buckets, self._share("_sum", labels))

    def collect(self) -> Iterable[Metric]:
        """All of it as the library tells it."""
        family = HistogramMetricFamily(self._name, self._help, labels=self._labelnames)
        for labels, child in self._now():
            cumulative = accumulate(child.counts)
            family.add_metric(labels, list(zip(self._spelt, cumulative, strict=True)), child.sum)
        yield family
