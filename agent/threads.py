"""Threads that the process does not wait for when it ends: one may hang in a store that never answers."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_daemon_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do `work` in a thread of its own; it goes on if who waits for it leaves.

    Raises whatever `work` does.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def tell(settle: Callable[[Any], None], value: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(lambda: None if outcome.done() else settle(value))

    def run() -> None:
        try:
            result = work(*args, **kwargs)
        except BaseException as error:  # whatever it is, who waits is told
            tell(outcome.set_exception, error)
        else:
            tell(outcome.set_result, result)

    threading.Thread(target=run, name="store", daemon=True).start()
    return await outcome
