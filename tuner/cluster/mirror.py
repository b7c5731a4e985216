"""The cluster's objects of a kind as they change: listed once, then watched from there on.

A watch that breaks goes on where it was, so nothing that happened meanwhile is missed; where the server does not know
that any more, everything is listed again.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from tuner.cluster.api import Cluster, Kind, Listing, Object, WatchStream
from tuner.cluster.errors import ClusterError, ClusterRefused, Expired

T = TypeVar("T")
log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0


class Mirror:
    """The objects of a kind with some labels.

    Args:
        changed: is called when there is something new.
        pause_s: before the API server is asked again that did not answer; longer each time.

    Attributes:
        objects: as they were last seen, by name.
        first: what was there at first, by uid.
        gone: what has disappeared and was not `forget`ten yet, as it was last seen.
        is_whole: whether they were listed once.
        problem: why nothing new is heard; None while all is well.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: Kind,
        selector: str,
        changed: Callable[[], None] = lambda: None,
        pause_s: float = _FIRST_PAUSE_S,
    ) -> None:
        self.objects: dict[str, Object] = {}
        self.first: frozenset[str] = frozenset()
        self.gone: list[Object] = []
        self.is_whole = False
        self.problem: str | None = "the cluster's API server was not asked yet"
        self._cluster, self._kind, self._selector = cluster, kind, selector
        self._changed = changed
        self._first_pause_s = pause_s
        self._version: str | None = None

    async def run(self) -> None:
        """Follow the cluster until this is cancelled."""
        pause_s = self._first_pause_s
        while True:
            try:
                await self._follow()
                pause_s = self._first_pause_s
            except Expired:
                self._version = None
            except ClusterError as error:
                self._tell_of(error)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)  # also after a watch that ended in order: a server may end each at once

    def put(self, made: Object) -> None:
        """Add an object that the API server has just made, before it is heard of; it may even be gone by now."""
        if self._version is None or _is_newer(made, self._version):
            self.objects.setdefault(made["metadata"]["name"], made)

    def forget(self, gone: Sequence[Object]) -> None:
        """Drop the first of `gone`, which everything was done for that there was to do."""
        del self.gone[: len(gone)]

    async def _follow(self) -> None:
        """List where that is needed, then watch until the server ends that."""
        if self._version is None:
            known = dict(self.objects)
            self._replace(known, await asyncio.to_thread(self._cluster.listed, self._kind, self._selector))
        assert self._version is not None
        stream = await asyncio.to_thread(self._cluster.watch, self._kind, self._selector, self._version)
        if self.problem is not None:
            self.problem = None
            self._changed()
        try:
            await self._read(stream)
        finally:
            stream.close()

    async def _read(self, stream: WatchStream) -> None:
        loop = asyncio.get_running_loop()

        def read() -> None:
            for frame, found in stream:
                loop.call_soon_threadsafe(self._take, frame, found)

        await _in_thread(read)

    def _replace(self, known: Mapping[str, Object], listing: Listing) -> None:
        """Have what was listed, and notice what is not there any more of what was known when the list was asked for."""
        found = {each["metadata"]["name"]: each for each in listing.items}
        uids = {each["metadata"]["uid"] for each in listing.items}
        made_since = {
            name: each
            for name, each in self.objects.items()
            if name not in known and name not in found and _is_newer(each, listing.version)
        }
        self.gone += [each for each in known.values() if each["metadata"]["uid"] not in uids]
        if not self.is_whole:
            self.first = frozenset(uids)
        self.objects, self._version, self.is_whole = found | made_since, listing.version, True
        self._changed()

    def _take(self, frame: str, found: Mapping[str, Any]) -> None:
        self._version = found["metadata"].get("resourceVersion", self._version)
        if frame == "BOOKMARK":
            return
        name = found["metadata"]["name"]
        if frame == "DELETED":
            self.objects.pop(name, None)
            self.gone.append(dict(found))
        else:
            self.objects[name] = dict(found)
        self._changed()

    def _tell_of(self, error: ClusterError) -> None:
        if self.problem != str(error):
            said = error.said if isinstance(error, ClusterRefused) else ""
            log.warning("%s are not followed now: %s %s", self._kind.plural, error, said)
        self.problem = str(error)


def _is_newer(made: Object, version: str) -> bool:
    """Whether an object was written after a list or a frame of its kind; of two that are no numbers nobody knows."""
    written = made["metadata"].get("resourceVersion", "")
    return written.isdecimal() and version.isdecimal() and int(written) > int(version)


async def _in_thread(work: Callable[[], T]) -> T:
    """The result of work that may block for minutes, in a thread that keeps no process from ending."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]  # a result where there was no error

    def run() -> None:
        value, failure = None, None
        try:
            value = work()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, value, failure)

    threading.Thread(target=run, daemon=True).start()
    return await result
