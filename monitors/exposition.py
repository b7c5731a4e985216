"""The metrics as text for scrapers, made once for all who ask within a second.

With a thousand adapters the text has tens of thousands of lines, and Python does nothing else while it makes them.
"""

import os
import threading
import time

from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_FRESH_S = 1.0


class Exposition:
    """Everything in Prometheus' text format, of all processes of this gateway."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._text = b""
        self._made_at: float | None = None

    def text(self) -> bytes:
        """The text, up to a second old. Any thread may ask; those that come while it is being made wait for it."""
        with self._lock:
            now = time.monotonic()
            if self._made_at is None or now - self._made_at >= _FRESH_S:
                self._text = generate_latest(self._sources())
                self._made_at = time.monotonic()  # the end, so that long work is not begun again at once
            return self._text

    def _sources(self) -> CollectorRegistry:
        if not is_of_several_processes():
            return self._registry
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return together


def is_of_several_processes() -> bool:
    """Whether several processes put their numbers together in a folder."""
    return _FOLDER in os.environ


def mark_process_dead(pid: int) -> None:
    """Let the gauges of a process that has ended count no longer; what it counted stays counted."""
    if is_of_several_processes():
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
