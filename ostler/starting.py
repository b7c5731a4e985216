"""What each of our processes does before it serves: says which setting is wrong, sets up its log, takes its port.

The agent needs this without what the other processes bring; so nothing here imports a room of ours.
"""

import logging
import socket
import sys
from typing import Any

from ostler.client import CommandFailed

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
LOG_FORMAT_OF_SEVERAL = "%(asctime)s %(levelname)-7s [%(process)d] %(name)s: %(message)s"
_OURS = ("agent", "gateway", "registry", "monitors", "tuner", "ostler", "uvicorn")


def problem_of(item: Any) -> str:
    """One of pydantic's findings: the setting and what is wrong with it, without the value."""
    words = item["msg"].removeprefix("Value error, ")
    return ": ".join(filter(None, (".".join(map(str, item["loc"])), words)))


def log_to_standard_error(level: str, *, workers: int = 1) -> None:
    """Log lines to standard error; our own from `level` on, other libraries' from warning."""
    form = LOG_FORMAT_OF_SEVERAL if workers > 1 else LOG_FORMAT
    logging.basicConfig(level=logging.WARNING, format=form, stream=sys.stderr)
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())


def require_free_port(host: str, port: int, remedy: str = "say --port") -> None:
    """Find out before anything is started; `remedy` is how to take another.

    Raises:
        CommandFailed: it cannot be listened on.
    """
    listening_socket(host, port, remedy).close()


def listening_socket(host: str, port: int, remedy: str = "say --port") -> socket.socket:
    """A socket of that address, for those who inherit it to listen on.

    Raises:
        CommandFailed: it cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        raise CommandFailed(
            f"cannot listen on {host} port {port} ({error.strerror}); another Ostler may run, or {remedy}"
        ) from None
    return opened
