"""Putting content into the store that nothing names yet: it is named afterwards, or gone again."""

import asyncio
import contextlib
from collections.abc import Callable

from registry.artifacts import ArtifactStore
from registry.errors import StoreFailure


async def stored(store: ArtifactStore, put: Callable[[], str]) -> str:
    """What `put` has stored, in a thread; its digest.

    A thread cannot be broken off. So when its caller is, the thread is waited for, and its content removed.

    Raises:
        StoreFailure
    """
    putting = asyncio.ensure_future(asyncio.to_thread(put))
    try:
        return await asyncio.shield(putting)
    except asyncio.CancelledError:
        with contextlib.suppress(StoreFailure):
            await asyncio.to_thread(store.remove, await putting)
        raise
