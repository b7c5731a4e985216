"""The agent's folder of versions: complete or not there, never over its size, and never short of what the engine uses.

    <folder>/sha256/<digest>/    a version's files, as the store has them
    <folder>/.staging/           what is on its way in or out; swept at the start, as whoever worked there is gone
    <folder>/.lock               held by the one agent that uses the folder

A version comes in whole by one rename, after each of its bytes was held against the digest, and leaves by another. What
the engine has registered stays, however long ago it was used: vLLM reads the files again after its own evictions.
"""

import asyncio
import contextlib
import fcntl
import functools
import logging
import os
import re
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

from agent.errors import AgentError, CacheFull, DiskFailure, Stopping, VersionTooLarge
from agent.metrics import AgentMetrics
from agent.threads import in_daemon_thread
from agent.wholeness import Wholeness
from registry.artifact_files import ArtifactReader, Manifest
from registry.errors import StoreFailure
from registry.probes import PROBES_FILE

log = logging.getLogger(__name__)

_DIGEST = re.compile("[0-9a-f]{64}")
_FETCHES_AT_ONCE = 4
_CLOSE_S = 5.0
P = ParamSpec("P")
T = TypeVar("T")


class Cache:
    """The versions on this machine's disk.

    Args:
        reader: where they come from.
        folder: where they lie; made if it is not there.
        limit_bytes: what they may have together.
        in_use: asks the engine which folders it has registered.
        metrics: told of what happens.

    Raises:
        OSError: the folder cannot be written.
        ValueError: another agent uses it.
    """

    def __init__(
        self,
        reader: ArtifactReader,
        folder: Path,
        limit_bytes: int,
        in_use: Callable[[], Awaitable[Collection[str]]],
        metrics: AgentMetrics,
    ) -> None:
        self._reader = reader
        self._versions = folder / "sha256"
        self._staging = folder / ".staging"
        self._limit = limit_bytes
        self._in_use = in_use
        self._metrics = metrics
        self._held: Counter[str] = Counter()
        """Loads under way, per digest."""
        self._fetches: dict[str, asyncio.Task[Path]] = {}
        self._room = asyncio.Lock()
        self._turns = asyncio.Semaphore(_FETCHES_AT_ONCE)
        self._wholeness = Wholeness()
        self._stopping = threading.Event()
        self._versions.mkdir(parents=True, exist_ok=True)
        self._lock = _claim(folder / ".lock")
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir(exist_ok=True)
        self._sizes = dict(_found(self._versions))
        """Bytes per digest, of what is there and of what has its room already; least recently used first."""
        metrics.cache_limit.set(limit_bytes)
        self._show()

    async def close(self) -> None:
        """End fetches that are under way, and let another agent have the folder."""
        self._stopping.set()
        if self._fetches:
            await asyncio.wait(self._fetches.values(), timeout=_CLOSE_S)
        os.close(self._lock)

    def place(self, digest: str) -> Path:
        """Where a version lies, if it is there."""
        return self._versions / digest

    @contextlib.asynccontextmanager
    async def hold(self, digest: str) -> AsyncIterator[Path]:
        """A version's folder, fetched first if need be, which stays for the block.

        Raises:
            StoreFailure: its files could not be read, or are not what the digest says.
            VersionTooLarge, CacheFull, DiskFailure: there is no room.
            EngineDown, EngineRefused: what the engine uses could not be asked for.
            Stopping: the agent ends.
        """
        self._held[digest] += 1
        try:
            yield await self._bring(digest)
        finally:
            async with self._room:  # who makes room sees each version held, or registered, or neither any more
                self._held[digest] -= 1
                if not self._held[digest]:
                    del self._held[digest]

    async def _bring(self, digest: str) -> Path:
        """Join the fetch that is under way, or begin one; it goes on if this waiter leaves."""
        task = self._fetches.get(digest)
        if task is None:
            task = self._fetches[digest] = asyncio.create_task(self._fetch(digest))
            task.add_done_callback(functools.partial(self._fetched, digest))
        return await asyncio.shield(task)

    def _fetched(self, digest: str, task: asyncio.Task[Path]) -> None:
        del self._fetches[digest]
        if not task.cancelled() and task.exception() is not None:
            log.debug("%s was not fetched", digest[:12])  # who waited was told; asyncio need not say it again

    async def _fetch(self, digest: str) -> Path:
        place = self.place(digest)
        if digest in self._sizes:
            if await asyncio.to_thread(self._wholeness.holds, place, digest):
                self._use(digest)
                return place
            log.warning("the cached version %s is damaged, and is fetched again", digest[:12])
            await self._drop([digest])
        began = time.monotonic()
        try:
            await self._fetch_new(digest)
        except (AgentError, StoreFailure) as error:
            self._metrics.fetch_failures.labels(error.code).inc()
            raise
        self._metrics.fetches.inc()
        self._metrics.fetch_seconds.observe(time.monotonic() - began)
        return place

    async def _fetch_new(self, digest: str) -> None:
        manifest = await self._in_thread(self._reader.manifest, digest)
        await self._make_room(digest, manifest.size_bytes)
        try:
            await self._in_thread(self._download, digest, manifest)
        except BaseException:
            del self._sizes[digest]
            raise
        finally:
            self._show()
        log.info("fetched %s, %.1f MiB", digest[:12], manifest.size_bytes / (1 << 20))

    def _use(self, digest: str) -> None:
        """Have it be the last to go, also after a restart."""
        self._sizes[digest] = self._sizes.pop(digest)
        with contextlib.suppress(OSError):
            os.utime(self.place(digest))

    # Making room

    async def _make_room(self, digest: str, size: int) -> None:
        """Reserve room, evicting the least recently used; nothing is evicted if that would not suffice."""
        if size > self._limit:
            raise VersionTooLarge(
                f"the version has {_mib(size)}, and the agent's cache holds {_mib(self._limit)}: "
                "raise OSTLER_AGENT_CACHE_GIB"
            )
        async with self._room:
            over = sum(self._sizes.values()) + size - self._limit
            if over > 0:
                await self._evict(over, size)
            self._sizes[digest] = size

    async def _evict(self, over: int, size: int) -> None:
        # A fetch goes on when nobody holds its version any more, and its room stays reserved.
        kept = {*map(digest_of, await self._in_use()), *self._held, *self._fetches}
        victims = self._victims(over, kept)
        if victims is None:
            used = sum(each for digest, each in self._sizes.items() if digest in kept)
            raise CacheFull(
                f"the version has {_mib(size)}, and {_mib(used)} of the agent's {_mib(self._limit)} are in use by the "
                "engine: raise OSTLER_AGENT_CACHE_GIB, or lower the engine's slots"
            )
        log.info("evicting %s", ", ".join(victim[:12] for victim in victims))
        self._metrics.evictions.inc(len(victims))
        await self._drop(victims)

    def _victims(self, over: int, kept: Collection[str | None]) -> list[str] | None:
        """Which versions to drop to be `over` bytes less; None if those that may go do not suffice."""
        victims = []
        for digest, size in self._sizes.items():
            if over <= 0:
                break
            if digest not in kept:
                victims.append(digest)
                over -= size
        return victims if over <= 0 else None

    async def _drop(self, digests: Iterable[str]) -> None:
        """Let versions go, all before anybody else can look; what they leave is deleted at leisure."""
        leftovers = []
        try:
            for digest in digests:
                leftovers.append(self._staging / uuid.uuid4().hex)
                with _disk_failures(), contextlib.suppress(FileNotFoundError):  # somebody may have taken it away
                    self.place(digest).rename(leftovers[-1])
                del self._sizes[digest]
        finally:
            self._show()
            for leftover in leftovers:
                await asyncio.to_thread(shutil.rmtree, leftover, ignore_errors=True)

    # Downloading, in a thread

    def _download(self, digest: str, manifest: Manifest) -> None:
        staged, strange = (self._staging / uuid.uuid4().hex for _ in range(2))
        try:
            with _disk_failures():
                staged.mkdir()
            for name, entry in manifest.files.items():
                self._write(staged / name, self._reader.parts(digest, name, entry))
            with _disk_failures():
                if (staged / PROBES_FILE).exists():  # what only gateways read may hold what users said
                    (staged / PROBES_FILE).chmod(0o600)
                with contextlib.suppress(FileNotFoundError):  # what is there nobody has noted: it is not the agent's
                    self.place(digest).rename(strange)
                staged.rename(self.place(digest))
                self._wholeness.note(self.place(digest), digest)
        finally:
            for leftover in (staged, strange):
                _remove(leftover)

    def _write(self, file: Path, parts: Iterator[bytes]) -> None:
        with _disk_failures():
            opened = file.open("wb", buffering=0)
        with opened:
            for part in parts:
                if self._stopping.is_set():
                    raise Stopping("the agent is stopping")
                with _disk_failures():
                    _write_all(opened.fileno(), part)
                self._metrics.fetched_bytes.inc(len(part))

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._stopping.is_set():
            raise Stopping("the agent is stopping")
        async with self._turns:
            return await in_daemon_thread(work, *args, **kwargs)

    def _show(self) -> None:
        self._metrics.cache_bytes.set(sum(self._sizes.values()))
        self._metrics.cached.set(len(self._sizes))


def is_digest(text: str) -> bool:
    """Whether that could be a version's digest."""
    return bool(_DIGEST.fullmatch(text))


def digest_of(folder: str) -> str | None:
    """The version that a folder is named for; None if it is named for none."""
    name = Path(folder).name
    return name if is_digest(name) else None


def _claim(file: Path) -> int:
    """A lock that ends with this process, however it ends."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ValueError("another agent uses the folder in OSTLER_AGENT_CACHE; each agent needs its own") from None
    return handle


def _found(folder: Path) -> Iterator[tuple[str, int]]:
    """The versions that lie in a folder, the least recently used first, with their sizes; drops what cannot be read."""
    found = [each for each in folder.iterdir() if is_digest(each.name) and each.is_dir() and not each.is_symlink()]
    for version in sorted(found, key=lambda each: each.stat().st_mtime):
        try:
            yield version.name, sum(file.stat().st_size for file in version.iterdir())
        except OSError:
            log.warning("the cached version %s cannot be read, and is dropped", version.name[:12])
            _remove(version)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):  # what is no folder
        path.unlink()


def _write_all(handle: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(handle, left) :]


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


@contextlib.contextmanager
def _disk_failures() -> Iterator[None]:
    """Turn the disk's errors, whose texts hold paths, into ours."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise DiskFailure(f"the agent's cache could not be written: {reason}") from error
