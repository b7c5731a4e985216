"""Last place in the engines' queues, for what no client waits for: shadows and evaluations."""

import logging
from collections.abc import Mapping

from gateway.engines.engine import explain

log = logging.getLogger(__name__)

PRIORITY_HEADER = "x-vllm-priority"
LOW_PRIORITY = "10"
"""Clients may ask for 0 to 9, where lower is earlier."""


class LowPriority:
    """Asks for it, until an engine says that it takes no priorities."""

    def __init__(self) -> None:
        self._is_taken = True

    @property
    def headers(self) -> Mapping[str, str]:
        """What asks an engine for it."""
        return {PRIORITY_HEADER: LOW_PRIORITY} if self._is_taken else {}

    def was_refused(self, headers: Mapping[str, str], content: bytes) -> bool:
        """Whether an engine's 400 to these headers says that it takes no priorities. Then it is asked no more."""
        if PRIORITY_HEADER not in headers or "priority" not in explain(content)[0].lower():
            return False
        if self._is_taken:
            log.warning("the engine takes no priorities (--scheduling-policy priority); what comes last is as the rest")
        self._is_taken = False
        return True
