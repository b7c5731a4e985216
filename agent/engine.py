"""The agent's vLLM, over loopback: the paths that change it. No other module of the agent knows vLLM's answers."""

import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import msgspec

from agent.errors import EngineDown, EngineRefused

_PATHS = re.compile(r"(?:/[\w.@+=-]+){2,}/?")
_MAX_REASON = 2000
_LOOK_S = 10.0
_WORK_S = 600.0
"""Gateways have deadlines of their own, and ask again; this one only ends what hangs."""


class _Model(msgspec.Struct):
    id: str
    root: str | None = None
    parent: str | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class _Sleeping(msgspec.Struct):
    is_sleeping: bool


class _Error(msgspec.Struct):
    message: str


class _Refusal(msgspec.Struct):
    error: _Error


class Engine:
    """A client of one vLLM server.

    Args:
        url: its address, such as ``http://127.0.0.1:8000``.
        session: the connections; closed by whoever made them.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def adapters(self) -> dict[str, str]:
        """What is registered beside the base model: each name, and the folder it was loaded from.

        Raises:
            EngineDown, EngineRefused
        """
        answer = await self._ask("GET", "/v1/models", timeout_s=_LOOK_S)
        try:
            found = msgspec.json.decode(answer, type=_Models)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise EngineRefused(502, "the engine's list of models cannot be read") from None
        return {model.id: model.root or "" for model in found.data if model.parent is not None}

    async def folders(self) -> list[str]:
        """The folders that it reads adapters from, now and again.

        Raises:
            EngineDown, EngineRefused
        """
        return list((await self.adapters()).values())

    async def is_healthy(self) -> bool:
        """Whether it answers, and its own check says that it lives."""
        try:
            await self._ask("GET", "/health", timeout_s=_LOOK_S)
        except (EngineDown, EngineRefused):
            return False
        return True

    async def load(self, name: str, path: str) -> None:
        """Register the adapter in the folder `path` under `name`.

        Raises:
            EngineDown, EngineRefused
        """
        await self._ask("POST", "/v1/load_lora_adapter", json={"lora_name": name, "lora_path": path})

    async def unload(self, name: str) -> None:
        """Forget a name; not having it is fine.

        Raises:
            EngineDown, EngineRefused
        """
        try:
            await self._ask("POST", "/v1/unload_lora_adapter", json={"lora_name": name})
        except EngineRefused as refused:
            if refused.status != 404:
                raise

    async def is_sleeping(self) -> bool:
        """Whether it has given up its GPU's memory for a while.

        Raises:
            EngineDown
            EngineRefused: it knows no sleep.
        """
        answer = await self._ask("GET", "/is_sleeping", timeout_s=_LOOK_S)
        try:
            return msgspec.json.decode(answer, type=_Sleeping).is_sleeping
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise EngineRefused(404, "the engine does not say whether it sleeps") from None

    async def sleep(self) -> None:
        """Have it end what it does and give up its memory, until it is woken.

        Raises:
            EngineDown, EngineRefused
        """
        # Without the mode vLLM breaks off what runs.
        await self._ask("POST", "/sleep", params=[("level", "1"), ("mode", "wait")])

    async def wake_up(self) -> None:
        """Have it serve again; one that is awake stays so.

        Raises:
            EngineDown, EngineRefused
        """
        await self._ask("POST", "/wake_up")

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Sequence[tuple[str, str]] = (),
        timeout_s: float = _WORK_S,
    ) -> bytes:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with (
            _failures(),
            self._session.request(method, self._url + path, json=json, params=params, timeout=timeout) as response,
        ):
            content = await response.read()
            if response.status != 200:
                raise EngineRefused(response.status, _words(content))
            return content


@contextlib.asynccontextmanager
async def _failures() -> AsyncIterator[None]:
    """Turn the client library's errors, whose texts hold addresses, into ours."""
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        raise EngineDown("the agent's engine does not answer") from error


def _words(content: bytes) -> str:
    """The engine's words for an error, without the paths of its machine, and not endless."""
    try:
        message = msgspec.json.decode(content, type=_Refusal).error.message
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return "the engine gave no reason"
    return _PATHS.sub("[path]", message)[:_MAX_REASON]
