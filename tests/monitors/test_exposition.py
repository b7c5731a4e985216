"""The metrics' text: made once for all who ask at about the same time."""

import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

import monitors.exposition
from monitors.exposition import Exposition


class Counting(Collector):
    """Counts how often the metrics are collected, which takes a while, and how many do it at once."""

    def __init__(self) -> None:
        self.times = 0
        self.at_once = 0
        self.most_at_once = 0

    def collect(self) -> Iterable[Metric]:
        """One counter: how often this was called."""
        self.times += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(0.02)
        self.at_once -= 1
        yield CounterMetricFamily("collected", "Times.", value=self.times)


@pytest.fixture
def counting() -> Counting:
    """A collector that is registered in `exposition`."""
    return Counting()


@pytest.fixture
def exposition(counting: Counting) -> Exposition:
    """The text of `counting` alone."""
    registry = CollectorRegistry()
    registry.register(counting)
    return Exposition(registry)


def _ask_at_once(exposition: Exposition, scrapers: int) -> list[bytes]:
    barrier = threading.Barrier(scrapers)

    def ask(_: int) -> bytes:
        barrier.wait()
        return exposition.text()

    with ThreadPoolExecutor(scrapers) as threads:
        return list(threads.map(ask, range(scrapers)))


@pytest.fixture
def stays_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text is new enough for as long as a test takes."""
    monkeypatch.setattr(monitors.exposition, "_FRESH_S", 3600.0)


@pytest.mark.usefixtures("stays_fresh")
def test_scrapers_that_ask_at_once_share_one_text(exposition: Exposition, counting: Counting) -> None:
    """It is made once, and all of them get it; so does the next."""
    texts = {*_ask_at_once(exposition, 8), exposition.text()}
    assert len(texts) == 1
    assert b"collected_total 1.0" in texts.pop()
    assert counting.times == 1


def test_an_old_text_is_made_anew(exposition: Exposition, counting: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one thread at a time."""
    monkeypatch.setattr(monitors.exposition, "_FRESH_S", 0.0)
    assert len(set(_ask_at_once(exposition, 4))) == 4
    assert counting.times == 4
    assert counting.most_at_once == 1
    assert b"collected_total 5.0" in exposition.text()


@pytest.mark.usefixtures("stays_fresh")
def test_a_text_that_could_not_be_made_is_tried_again(
    exposition: Exposition, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody waits for the one that failed."""
    with monkeypatch.context() as broken:
        broken.setattr(counting, "collect", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            exposition.text()
    assert b"collected_total 1.0" in exposition.text()
