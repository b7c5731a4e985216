"""A version's way into one engine: its files, the load and the proof; and whose fault it is where that fails."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from gateway.engines.engine import Engine, is_crossed
from gateway.engines.eviction import is_content
from gateway.engines.failures import EngineDown, EngineLate, EngineRefused, EngineStopping
from gateway.engines.managing import LATE, Manager
from gateway.engines.proof import Proof, Prover
from gateway.errors import EngineCrowded, VersionNotServable
from registry.catalog import Version
from registry.errors import InvalidAdapter, StoreFailure
from registry.probes import Probes

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 5.0
_PAUSE_S = 0.02  # between tries of a load that others undo
_ENGINE_FAILED = 500  # the status from which on an answer may be the engine's fault


class Loader:
    """Loads versions in one engine. What is loaded there, and what has to go for it, others know.

    Args:
        id: the replica's name in logs.
        manager: loads and unloads in the engine.
        timeout_s: the longest a load or a proof may take.
        on_proven: told of each proof, in seconds.
        on_down: called when not even the base model answers.

    Attributes:
        crossed: the engine names of what is being loaded again, as others undid the load.
    """

    def __init__(
        self,
        id: str,
        engine: Engine,
        manager: Manager,
        prover: Prover,
        *,
        timeout_s: float,
        on_proven: Callable[[float], None],
        on_down: Callable[[], None],
    ) -> None:
        self.id = id
        self.engine = engine
        self.manager = manager
        self.timeout_s = timeout_s
        self.crossed: set[str] = set()
        self._prover = prover
        self._on_proven = on_proven
        self._on_down = on_down
        self._late: set[str] = set()
        """What was asked for here, and may have been loaded after this gateway had given up waiting."""

    def forget(self) -> None:
        """The engine is gone, and all that is known of it."""
        self._late.clear()
        self._prover.forget()

    async def prove(self, version: Version) -> Proof:
        """Have a resident version prove anew that it acts.

        Raises:
            EngineDown, EngineRefused, StoreFailure, InvalidAdapter
            TimeoutError: its probes did not come in time.
        """
        async with asyncio.timeout(self.timeout_s):
            probes = await self.manager.probes(version)
        return await self._prover.prove(self.engine, version.engine_name, probes, self.timeout_s)

    async def load(self, version: Version, make_room: Callable[[], Awaitable[None]]) -> None:
        """Load, and have it prove that it acts; what does not is unloaded, if it was loaded here.

        Args:
            version: what to load.
            make_room: called before it is loaded, once its files are there.

        Raises:
            EngineDown: `sent`, if the version may be what broke the engine.
            EngineCrowded: other gateways kept unloading it.
            VersionNotServable: the engine refuses it, it failed its proof, or its files cannot be had.
        """
        name = version.engine_name
        try:
            await self._until_proven(version, make_room)
        except (StoreFailure, InvalidAdapter) as failure:
            message = f"{name} cannot be loaded: {failure.message}"
            raise self._refusal(message, f"{name} cannot be loaded") from failure
        except TimeoutError:
            raise self._refusal(f"{name} cannot be loaded: its files did not come in time") from None
        except EngineRefused as refused:
            words = f"the engine refused {name}: "
            raise self._refusal(words + refused.reason, words + refused.for_clients) from refused
        finally:
            self.crossed.discard(name)
        self._late.discard(name)

    def _refusal(self, message: str, for_clients: str | None = None) -> VersionNotServable:
        log.warning("engine %s: %s", self.id, message)
        refusal = VersionNotServable(message)
        refusal.for_clients = for_clients
        return refusal

    async def _until_proven(self, version: Version, make_room: Callable[[], Awaitable[None]]) -> None:
        """Again and again, where others undo it.

        Another gateway may unload it at any moment, and load it again: what the engine has by now says nothing of
        what it had when it was asked, nor whose it is.
        """
        name = version.engine_name
        give_up = time.monotonic() + self.timeout_s
        while not await self._is_proven(version, make_room):
            if time.monotonic() >= give_up:
                log.warning("engine %s: %s is gone again each time that it was loaded", self.id, name)
                raise crowded(name)
            self.crossed.add(name)
            await asyncio.sleep(_PAUSE_S)

    async def _is_proven(self, version: Version, make_room: Callable[[], Awaitable[None]]) -> bool:
        """Load and prove it once; whether nobody undid that.

        Raises:
            EngineDown, EngineRefused, StoreFailure, InvalidAdapter
            TimeoutError: its files, or its probes, did not come in time.
        """
        is_ours = False
        try:
            probes, is_ours = await self._have(version, make_room)
            began = time.monotonic()
            async with self._blaming(asked=True):
                await self._prover.prove(self.engine, version.engine_name, probes, self.timeout_s)
            self._on_proven(time.monotonic() - began)
        except EngineRefused as refused:
            if is_crossed(refused, version.engine_name):
                return False
            if is_ours:
                await self._take_back(version.engine_name, refused)
            raise
        return True

    async def _take_back(self, name: str, refused: EngineRefused) -> None:
        """Unload what did not prove itself; what only took too long may stay, and proves itself later."""
        if refused.status == LATE:
            self._late.add(name)
            return
        self._late.discard(name)
        with contextlib.suppress(EngineDown, EngineRefused):
            await self.manager.unload(name)

    async def _have(self, version: Version, make_room: Callable[[], Awaitable[None]]) -> tuple[Probes | None, bool]:
        """Have the engine know the version: what it is to be proven by, and whether it was loaded for this gateway.

        Nothing makes room for it before its files are there. What the engine has already needs neither files nor room.
        """
        name = version.engine_name
        async with self._blaming(asked=False), asyncio.timeout(self.timeout_s):
            if is_content((await self.engine.models()).get(name, ""), version):
                return await self.manager.probes(version), name in self._late
            fetched = await self.manager.fetch(version)
        await make_room()
        try:
            async with self._blaming(asked=True):
                is_new = await self.manager.load(fetched, self.timeout_s)
        except EngineRefused as refused:
            if refused.status == LATE:
                self._late.add(name)
            raise
        return fetched.probes, is_new or name in self._late

    @contextlib.asynccontextmanager
    async def _blaming(self, *, asked: bool) -> AsyncIterator[None]:
        """Where the base model fails, too, the engine is at fault, and no version; what is slow breaks no engine.

        Args:
            asked: whether the engine is asked for the version, which may then be what broke it.

        Raises:
            EngineDown: `sent`, if the version may be what broke it.
            EngineRefused: the engine is well.
        """
        try:
            yield
        except EngineLate:
            if not asked:
                raise EngineDown(sent=False) from None
            late = EngineRefused(LATE, "it did not do it in time, and may go on")
            await self._require_base(late, asked=asked)
            raise late from None
        except EngineDown as down:
            raise EngineDown(sent=asked and down.sent) from None
        except EngineRefused as refused:
            await self._require_base(refused, asked=asked)
            raise

    async def _require_base(self, refused: EngineRefused, *, asked: bool) -> None:
        if refused.status < _ENGINE_FAILED:
            return
        try:
            await self.engine.probe(self.engine.base, self.timeout_s)
        except (EngineDown, EngineRefused) as error:
            self._on_down()
            stops = isinstance(refused, EngineStopping) or isinstance(error, EngineStopping)
            raise EngineDown(sent=asked and not stops) from refused


def crowded(name: str) -> EngineCrowded:
    """What is told where other gateways keep taking a version's room."""
    return EngineCrowded(f"there is no lasting room for {name} on the engines now", retry_after_s=_RETRY_AFTER_S)
