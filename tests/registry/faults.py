"""Crashes at a chosen step of what the database is asked to do."""

import asyncio
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine


class Crash(OSError):
    """What a crash looks like to the code."""


@dataclass
class Fault:
    """Breaks whatever is at the n-th statement or commit from now: by an error there, or by cancelling its task."""

    steps: int
    cancels: bool

    def strike(self) -> None:
        """Called at each step."""
        self.steps -= 1
        if self.steps != 0:
            return
        if not self.cancels:
            raise Crash
        task = asyncio.current_task()
        assert task is not None
        task.cancel()


class Faults:
    """Sits in an engine and does what the fault of the moment says."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.now: Fault | None = None
        for moment in ("before_cursor_execute", "commit"):
            event.listen(engine.sync_engine, moment, self._step)

    def _step(self, *_: Any) -> None:
        if self.now is not None:
            self.now.strike()
