"""Hot swap: versions are made resident and proven, one transaction makes them live, then the pointer flips."""

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass

from gateway.directory import Directory
from gateway.engines.failures import EngineDown, EngineRefused
from gateway.engines.fleet import Fleet
from gateway.engines.proof import Proof
from gateway.engines.replica import Replica
from gateway.errors import DeadlineExceeded, EngineUnavailable, VersionNotServable
from monitors.metrics import Metrics
from registry.catalog import Adapter, Deployment, Version
from registry.deployments import Patch
from registry.errors import Conflict, InvalidAdapter, NotFound, StoreFailure
from registry.registry import Changed, Registry


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a version's proof on one replica came to: the proof, or the problem."""

    replica: str
    proof: Proof | None
    problem: str | None


class Swapper:
    """Changes what an adapter's name serves.

    Args:
        patience_s: how long a change may wait for the engines.
    """

    def __init__(
        self, registry: Registry, directory: Directory, fleet: Fleet, metrics: Metrics, *, patience_s: float
    ) -> None:
        self._registry = registry
        self._directory = directory
        self._fleet = fleet
        self._metrics = metrics
        self._patience_s = patience_s
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._automatic: dict[str, asyncio.Timeout] = {}
        self._first: Counter[str] = Counter()

    async def change(
        self,
        name: str,
        patch: Patch,
        *,
        expected_revision: int | None = None,
        decision: int | None = None,
        actor: str,
        reason: str,
    ) -> Adapter:
        """Change the deployment; what is changed is served from the moment that this returns.

        `decision` is what an automatic change follows from; without one it is a person's, and automatic ones of the
        adapter that are not written yet give way to it.

        Raises:
            RegistryError: there is no such adapter or version, or the change makes no sense.
            RevisionMismatch: someone else changed it since.
            Conflict: it was automatic, and gave way to a person's change or a rollback.
            VersionNotServable, EngineUnavailable: the engines cannot serve it; the deployment is as it was.
        """
        expected, is_automatic = expected_revision, decision is not None
        with contextlib.nullcontext() if is_automatic else self._comes_first(name):
            return await self._carry_out(
                "change",
                name,
                lambda: self._registry.preview(
                    name, patch, expected_revision=expected, decision=decision, reason=reason
                ),
                lambda prepared: self._registry.change(
                    name,
                    patch,
                    prepared=prepared,
                    expected_revision=expected,
                    decision=decision,
                    actor=actor,
                    reason=reason,
                ),
                gives_way=is_automatic,
            )

    async def rollback(
        self,
        name: str,
        *,
        to: int | None,
        expected_revision: int | None = None,
        decision: int | None = None,
        actor: str,
        reason: str,
    ) -> Adapter:
        """Restore what revision `to` made the name mean, or else what it meant before the present version served.

        Automatic changes of the adapter that are not written yet give way to it, unless it is refused as things are.
        `decision` is what an automatic one follows from; without one it is a person's.

        Raises:
            RegistryError: there is no such adapter or revision, or nothing came before.
            RevisionMismatch: someone else changed it since.
            VersionNotServable, EngineUnavailable: the engines cannot serve it; the deployment is as it was.
        """
        expected = expected_revision

        async def plan() -> Deployment:
            return await self._registry.preview_rollback(name, to, expected_revision=expected, decision=decision)

        await plan()  # one that is refused breaks nothing off
        with self._comes_first(name):
            return await self._carry_out(
                "rollback",
                name,
                plan,
                lambda prepared: self._registry.rollback(
                    name,
                    to=to,
                    prepared=prepared,
                    expected_revision=expected,
                    decision=decision,
                    actor=actor,
                    reason=reason,
                ),
            )

    @contextlib.contextmanager
    def _comes_first(self, name: str) -> Iterator[None]:
        """For the block automatic changes of the adapter give way: one that waits for the engines ends at once."""
        self._first[name] += 1
        if (waiting := self._automatic.pop(name, None)) is not None:
            waiting.reschedule(0)
        try:
            yield
        finally:
            self._first[name] -= 1

    async def _carry_out(
        self,
        action: str,
        name: str,
        plan: Callable[[], Awaitable[Deployment]],
        write: Callable[[frozenset[int]], Awaitable[Changed]],
        *,
        gives_way: bool = False,
    ) -> Adapter:
        """See what it would come to, make that ready on the engines, write it, and flip."""
        began = time.monotonic()
        async with self._lock(name):
            planned = await plan()
            versions = [await self._version(name, number) for number in sorted(planned.versions)]
            async with self._everywhere(name, versions, began + self._patience_s, gives_way):
                changed = await write(planned.versions)
                await self._directory.apply(changed)
        self._metrics.flips.labels(action).observe(time.monotonic() - began)
        return self._directory.catalog.adapters[name]

    @contextlib.asynccontextmanager
    async def _everywhere(
        self, name: str, versions: Iterable[Version], deadline: float, gives_way: bool
    ) -> AsyncIterator[None]:
        """Hold versions ready on the engines for the block.

        Raises:
            Conflict: it gave way to a change or a rollback that came before it was ready.
        """
        async with contextlib.AsyncExitStack() as stack:
            self._require_way(name, gives_way)  # who comes first may have come while it queued for its turn
            try:
                async with asyncio.timeout(None) as waiting:
                    if gives_way:
                        self._automatic[name] = waiting
                    await stack.enter_async_context(self._fleet.everywhere(versions, self._pool(name), deadline))
            except TimeoutError:
                raise _gave_way(name) from None
            finally:
                self._automatic.pop(name, None)
            self._require_way(name, gives_way)  # or just as the engines were ready
            yield

    def _require_way(self, name: str, gives_way: bool) -> None:
        if gives_way and self._first[name]:
            raise _gave_way(name)

    async def verify(self, name: str, number: int) -> list[Verdict]:
        """Have a version prove anew, on each of its healthy home replicas, that it acts.

        Raises:
            NotFound: no such adapter or version.
            EngineUnavailable: no replica answers.
        """
        version = await self._version(name, number)
        deadline = time.monotonic() + self._patience_s
        replicas = await self._fleet.healthy_homes(version, self._pool(name), deadline)
        return list(await asyncio.gather(*(self._verdict(replica, version, deadline) for replica in replicas)))

    async def _verdict(self, replica: Replica, version: Version, deadline: float) -> Verdict:
        try:
            with await replica.lease(version, deadline, lasting=True):
                return Verdict(replica.id, await replica.residency.prove(version), None)
        except EngineRefused as refused:
            return Verdict(replica.id, None, refused.reason)
        except (VersionNotServable, EngineUnavailable, DeadlineExceeded, StoreFailure, InvalidAdapter) as failure:
            return Verdict(replica.id, None, failure.message)
        except EngineDown:
            return Verdict(replica.id, None, "the engine went away meanwhile")
        except TimeoutError:
            return Verdict(replica.id, None, "its probes did not come in time")

    def _lock(self, name: str) -> asyncio.Lock:
        """One change of an adapter at a time, so that what was made ready is what goes live."""
        if name not in self._directory.catalog.adapters and name not in self._locks:
            return asyncio.Lock()  # not kept, so that unknown names cannot pile up
        return self._locks[name]

    def _pool(self, name: str) -> str:
        return self._directory.catalog.adapters[name].base

    async def _version(self, name: str, number: int) -> Version:
        adapter = self._directory.catalog.adapters.get(name)
        if adapter is None or number not in adapter.versions:
            await self._directory.refresh()
            adapter = self._directory.catalog.adapters.get(name)
        if adapter is None:
            raise NotFound(f"there is no adapter {name!r}", param="name")
        if number not in adapter.versions:
            raise NotFound(f"adapter {name!r} has no version {number}", param="version")
        return adapter.versions[number]


def _gave_way(name: str) -> Conflict:
    return Conflict(f"adapter {name!r} is being changed by a person or rolled back; look, and try again")
