"""The agent beside an engine, as the gateway talks to it: by digest, so the gateway needs none of a version's files.

An agent that does not answer refuses, as far as the gateway is concerned, and so does one that does not reach its
engine: that serves on with what it has. What the engine has can be proven while either of the agent and the artifact
store is away, or hangs.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec

from gateway.body import NOT_JSON
from gateway.engines.engine import Engine, refusal
from gateway.engines.failures import EngineRefused
from gateway.engines.managing import FETCHES, LATE, Fetched
from registry.artifact_files import ArtifactReader
from registry.catalog import Version
from registry.errors import InvalidAdapter
from registry.probes import LARGEST_FILE, PROBES_FILE, Probes, parse_probes

_QUICK_S = 10.0
_GLANCE_S = 3.0
"""For what others wait for, and an agent that does well has at hand."""
_FOR_CLIENTS = "its agent could not load it"
_ENGINE_IS_DOWN, _ENGINE_REFUSED = "engine_unavailable", "engine_refused"  # the agent's words


class _Content(msgspec.Struct):
    probes: bytes | None = None


class _Loaded(msgspec.Struct):
    loaded: bool


class _Sleeping(msgspec.Struct):
    is_sleeping: bool


Answer = TypeVar("Answer", _Content, _Loaded, _Sleeping)


class _Error(msgspec.Struct):
    code: str | None = None


class _Refusal(msgspec.Struct):
    error: _Error


def agent_url(engine_url: str, port: int) -> str:
    """Where the agent of the engine at a URL is: on the same machine, or in the same pod, at its own port."""
    host = urlsplit(engine_url).hostname or ""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class AgentManager:
    """Has an engine's agent load and unload.

    Args:
        engine: the engine, for its address.
        port: the agent's port there.
        reader: reads the artifact store; of a version, only its probes, and only while the agent is away.
        session: the connections; closed by whoever made them.
        token: what agents ask for; empty sends none.
        timeout_s: the longest that a fetch may take.
    """

    def __init__(
        self,
        engine: Engine,
        port: int,
        reader: ArtifactReader,
        session: aiohttp.ClientSession,
        token: str,
        timeout_s: float,
    ) -> None:
        self._url = agent_url(engine.url, port)
        self._reader = reader
        self._session = session
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._timeout_s = timeout_s

    async def fetch(self, version: Version) -> Fetched:
        """Have the agent fetch the version; the probes come from its copy, which it has held against the digest."""
        return Fetched(version, await self._fetched_probes(version, self._timeout_s))

    async def probes(self, version: Version) -> Probes | None:
        """Those that the agent has; from the store if the agent cannot say at once."""
        try:
            # A part of the time only: who asks gives this as long as a fetch, and the store has to be asked yet.
            return await self._fetched_probes(version, min(_GLANCE_S, self._timeout_s / 3))
        except (EngineRefused, InvalidAdapter):
            return await asyncio.get_running_loop().run_in_executor(FETCHES, self._stored_probes, version)

    async def _fetched_probes(self, version: Version, timeout_s: float) -> Probes | None:
        answer = await self._ask("PUT", f"/v1/contents/{version.digest}", timeout_s=timeout_s)
        return _parsed(_decoded(answer, _Content).probes)

    def _stored_probes(self, version: Version) -> Probes | None:
        return _parsed(self._reader.read(version.digest, PROBES_FILE, LARGEST_FILE))

    async def load(self, fetched: Fetched, timeout_s: float) -> bool:
        """Have the agent fetch and load the version."""
        body = {"digest": fetched.version.digest}
        answer = await self._ask("PUT", _version(fetched.version.engine_name), json=body, timeout_s=timeout_s)
        return _decoded(answer, _Loaded).loaded

    async def unload(self, name: str) -> None:
        """Have the agent unload a name."""
        await self._ask("DELETE", _version(name), timeout_s=_GLANCE_S)

    async def is_sleeping(self) -> bool | None:
        """Whether the engine sleeps, as the agent sees it."""
        try:
            return _decoded(await self._ask("GET", "/v1/is_sleeping", timeout_s=_GLANCE_S), _Sleeping).is_sleeping
        except EngineRefused as refused:
            if refused.status == 404:
                return None
            raise

    async def sleep(self, timeout_s: float) -> None:
        """Have the agent put the engine to sleep."""
        await self._ask("POST", "/v1/sleep", timeout_s=timeout_s)

    async def wake_up(self, timeout_s: float) -> None:
        """Have the agent wake the engine."""
        await self._ask("POST", "/v1/wake_up", timeout_s=timeout_s)

    async def _ask(self, method: str, path: str, *, json: Any = None, timeout_s: float = _QUICK_S) -> bytes:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with (
            _failures(),
            self._session.request(
                method, self._url + path, json=json, headers=self._headers, timeout=timeout
            ) as response,
        ):
            content = await response.read()
            if response.ok:
                return content
            raise _error(response.status, content)


def _parsed(content: bytes | None) -> Probes | None:
    return None if content is None else parse_probes(content)


def _version(name: str) -> str:
    return f"/v1/versions/{quote(name, safe='@')}"


@contextlib.asynccontextmanager
async def _failures() -> AsyncIterator[None]:
    """Turn the client library's errors, whose texts hold addresses, into ours."""
    try:
        yield
    except TimeoutError:
        raise EngineRefused(LATE, "its agent did not do it in time, and goes on", for_clients=_FOR_CLIENTS) from None
    except (aiohttp.ClientError, ConnectionError):
        raise EngineRefused(503, "its agent does not answer", for_clients=_FOR_CLIENTS) from None


def _decoded(answer: bytes, kind: type[Answer]) -> Answer:
    try:
        return msgspec.json.decode(answer, type=kind)
    except NOT_JSON:
        raise _no_agent() from None


def _no_agent() -> EngineRefused:
    return EngineRefused(502, "what answers at its agent's port is no agent", for_clients=_FOR_CLIENTS)


def _error(status: int, content: bytes) -> EngineRefused:
    try:
        code = msgspec.json.decode(content, type=_Refusal).error.code
    except NOT_JSON:
        return _no_agent()
    if code == _ENGINE_IS_DOWN:  # gateways see for themselves whether it is
        return EngineRefused(503, "its agent does not reach the engine", for_clients=_FOR_CLIENTS)
    words = refusal(content)
    if code == _ENGINE_REFUSED:
        return EngineRefused(status, words)
    return EngineRefused(status, f"its agent says: {words}", for_clients=_FOR_CLIENTS)
