"""A port for a process of a test that must be told one."""

import contextlib
import random
import socket

_PORTS = range(10_000, 32_000)
"""Below those that Linux gives to connections by itself: one of these would take the port before who was told it."""
_CHANCE = random.SystemRandom()  # tests seed the usual one, and would all get the same port


def free_port() -> int:
    """A port that nobody uses now."""
    while True:
        port = _CHANCE.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
