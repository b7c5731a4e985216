"""Makes things of many rows without holding up what the process does meanwhile."""

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

_AT_ONCE = 250
R = TypeVar("R")
T = TypeVar("T")


async def let_others_run(index: int) -> None:
    """Called before each of many rows: thousands in a row would hold up the requests that are answered meanwhile."""
    if index % _AT_ONCE == 0:
        await asyncio.sleep(0)


async def built(rows: Iterable[R], make: Callable[[R], T]) -> list[T]:
    """What each row becomes, in their order."""
    found = []
    for index, row in enumerate(rows):
        await let_others_run(index)
        found.append(make(row))
    return found
