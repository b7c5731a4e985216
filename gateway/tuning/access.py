"""Who may have versions made, and who sees what of it.

A key without a list of adapters sees every file and job. One with a list sees the files that itself sent, and the jobs
of its adapters; what it may not see answers exactly as what never was.
"""

from litestar.handlers.base import BaseRouteHandler

from gateway.auth import require
from gateway.web import Connection, PathNotFound, key_guard
from registry.catalog import ApiKey, Scope


def tuning_guard(connection: Connection, handler: BaseRouteHandler) -> None:
    """Let through only keys with the scope `tuning`."""
    if "\0" in connection.scope["path"]:
        raise PathNotFound("there is no path with a NUL in it")  # PostgreSQL would choke on it
    key_guard(connection, handler)
    require(connection.state.key, Scope.TUNING)


def sees_all(key: ApiKey) -> bool:
    """Whether the key sees the files and jobs of every other key, too."""
    return key.adapters is None


def owner_filter(key: ApiKey) -> str | None:
    """Whose files the key sees: its own id, or None for everybody's."""
    return None if sees_all(key) else key.id
