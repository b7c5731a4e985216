"""One vLLM server, as the gateway talks to it. In the gateway, this alone knows vLLM's paths and answers."""

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from gateway.body import NOT_JSON
from gateway.engines.connections import Connections, Reply
from gateway.engines.failures import EngineDown, EngineLate, EngineRefused, EngineStopping
from registry.probes import TOP_TOKENS, Distribution

_PATHS = re.compile(r"(?:/[\w.@+=-]+){2,}/?")
_INVALID_FIELD = re.compile(r"'loc': 'body\.(?P<field>[^']+)', 'msg': (?P<quote>['\"])(?P<words>.+?)(?P=quote)")
_WORKER_FAILED = re.compile(r"Worker failed with error '(?P<words>.+)', please check the stack trace", re.DOTALL)
_BLAMED = re.compile(r"\s*\(parameter=(?P<field>[\w.]+)(?:, value=.*)?\)\s*$", re.DOTALL)
_SAMPLE = re.compile(r"^(?P<name>[\w:]+)(?:\{[^}]*\})? (?P<value>[-+.\deE]+)$", re.MULTILINE)
_STATS = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
_MANAGEMENT_TIMEOUT_S = 10.0
_MAX_REASON = 300
_STOPPING = frozenset({"cannot schedule new futures after shutdown", "this engine is stopping"})
"""What vLLM says to whatever is new once it was told to end, and what its guard says before that, word for word."""
_ID_PREFIX = "token_id:"


@dataclass(frozen=True, slots=True)
class EngineStats:
    """How busy an engine is by its own count; None where it does not say. `kv_cache_usage` lies in [0, 1]."""

    running: int | None = None
    waiting: int | None = None
    kv_cache_usage: float | None = None


class _Sleeping(msgspec.Struct):
    is_sleeping: bool


class Engine:
    """A client of one vLLM server.

    Args:
        url: its address, such as ``http://127.0.0.1:8090``.
        base: the base model's name in it.
        session: the connections for managing it; closed by whoever made them.
    """

    def __init__(self, url: str, base: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.base = base
        self._session = session
        self._connections = Connections(url)

    def close(self) -> None:
        """Keep no connections; what is forwarded still ends."""
        self._connections.close()

    async def models(self) -> dict[str, str]:
        """What is loaded: each model's name and the folder it was loaded from.

        Raises:
            EngineDown, EngineRefused
        """
        async with self._request("GET", "/v1/models") as response:
            answer = await response.json()
        return {model["id"]: model.get("root") or "" for model in answer["data"]}

    async def is_healthy(self) -> bool:
        """Whether vLLM's own check says that its engine lives.

        Raises:
            EngineDown
        """
        try:
            async with self._request("GET", "/health"):
                return True
        except EngineRefused:
            return False

    async def stats(self) -> EngineStats:
        """How busy it is.

        Raises:
            EngineDown
        """
        # Only these: vLLM's whole page grows with every combination of adapters that was ever in one batch.
        wanted = [("name[]", name) for name in _STATS]
        try:
            async with self._request("GET", "/metrics", params=wanted) as response:
                found = {line["name"]: float(line["value"]) for line in _SAMPLE.finditer(await response.text())}
        except EngineRefused:
            return EngineStats()
        running, waiting, usage = (found.get(name) for name in _STATS)
        return EngineStats(_whole(running), _whole(waiting), usage)

    async def load(self, name: str, path: str, timeout_s: float) -> None:
        """Load the adapter in `path`, a folder on the engine's machine, under `name`.

        Raises:
            EngineDown, EngineRefused
        """
        body = {"lora_name": name, "lora_path": path}
        async with self._request("POST", "/v1/load_lora_adapter", json=body, timeout_s=timeout_s):
            pass

    async def unload(self, name: str) -> None:
        """Forget the adapter of that name; not having it is fine.

        Raises:
            EngineDown, EngineRefused
        """
        try:
            async with self._request("POST", "/v1/unload_lora_adapter", json={"lora_name": name}):
                pass
        except EngineRefused as refused:
            if refused.status != 404:
                raise

    async def is_sleeping(self) -> bool | None:
        """Whether it has given up its GPU's memory for a while; None if it knows no sleep.

        That is: it was started without sleep mode, something before it hides that path, or it is another server.

        Raises:
            EngineDown
        """
        try:
            async with self._request("GET", "/is_sleeping") as response:
                return msgspec.json.decode(await response.read(), type=_Sleeping).is_sleeping
        except (EngineRefused, *NOT_JSON):
            return None

    async def sleep(self, timeout_s: float) -> None:
        """Have it end what it does, move its weights to the CPU's memory and forget its KV cache, until it is woken.

        Raises:
            EngineDown, EngineRefused
        """
        # Without the mode vLLM breaks off what runs.
        params = [("level", "1"), ("mode", "wait")]
        async with self._request("POST", "/sleep", params=params, timeout_s=timeout_s):
            pass

    async def wake_up(self, timeout_s: float) -> None:
        """Have it take its memory back and serve again; one that is awake stays so.

        Raises:
            EngineDown, EngineRefused
        """
        async with self._request("POST", "/wake_up", timeout_s=timeout_s):
            pass

    async def probe(self, model: str, timeout_s: float) -> None:
        """Have `model` answer one token.

        Raises:
            EngineDown, EngineRefused: it did not, or another model answered.
        """
        body = {"model": model, "prompt": "ping", "max_tokens": 1, "temperature": 0}
        async with self._request("POST", "/v1/completions", json=body, timeout_s=timeout_s) as response:
            answer = await response.json()
        _require_model(answer, model)

    async def logprobs(
        self, model: str, prompts: Sequence[Sequence[int] | str], timeout_s: float
    ) -> list[Distribution]:
        """The likeliest next tokens after each prompt, in one request.

        Args:
            model: the name of a version or of the base.
            prompts: all texts or all lists of token ids; vLLM takes no mixture.
            timeout_s: the longest it may take.

        Raises:
            EngineDown, EngineRefused: it did not, or another model answered.
        """
        body = {"model": model, "prompt": list(prompts), "max_tokens": 1, "temperature": 0}
        # Ids, because different tokens may have the same text.
        body |= {"logprobs": TOP_TOKENS, "return_tokens_as_token_ids": True}
        async with self._request("POST", "/v1/completions", json=body, timeout_s=timeout_s) as response:
            answer = await response.json()
        _require_model(answer, model)
        try:
            choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
            found = [_distribution(choice["logprobs"]["top_logprobs"][0]) for choice in choices]
        except (LookupError, TypeError, ValueError) as error:
            raise EngineRefused(502, "the engine gave no log probabilities") from error
        if len(found) != len(prompts):
            raise EngineRefused(502, f"the engine answered {len(found)} of {len(prompts)} prompts")
        return found

    def forward(self, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Awaitable[Reply]:
        """Send a client's request on; the caller has the reply begin, reads and closes it.

        Raises:
            EngineDown
        """
        return self._connections.send(path, body, headers, timeout_s)

    @contextlib.asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Sequence[tuple[str, str]] = (),
        timeout_s: float = _MANAGEMENT_TIMEOUT_S,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        with _engine_failures():
            async with self._session.request(
                method, self.url + path, json=json, params=params, timeout=timeout
            ) as response:
                if response.status != 200:
                    raise _refused(response.status, await response.read())
                yield response


def _refused(status: int, body: bytes) -> EngineRefused:
    return EngineStopping(status) if is_stopping(status, body) else EngineRefused(status, refusal(body))


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


@contextlib.contextmanager
def _engine_failures() -> Any:
    """Turn the client library's errors, whose texts hold addresses, into ours."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise EngineDown(sent=False) from error
    except TimeoutError as error:
        raise EngineLate from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise EngineDown(sent=True) from error


def _require_model(answer: Mapping[str, Any], model: str) -> None:
    if answer.get("model") != model:
        raise EngineRefused(502, f"asked for {model}, another model answered")


def _distribution(top: Mapping[str, float]) -> Distribution:
    """Raises ValueError if it is empty or not by token id."""
    if not top:
        raise ValueError("no token")
    return {int(token.removeprefix(_ID_PREFIX)): float(logprob) for token, logprob in top.items()}


def lacks_model(body: bytes, model: str) -> bool:
    """Whether an engine's 404 says that it does not know the model, rather than something else that was asked for."""
    return _is_unknown(refusal(body), model)


def is_crossed(refused: EngineRefused, name: str) -> bool:
    """Whether a refusal only says that somebody else has just unloaded the name, or has just loaded it."""
    return _is_unknown(refused.reason, name) or f"'{name}' has already been loaded" in refused.reason


def _is_unknown(words: str, model: str) -> bool:
    return f"`{model}`" in words and "does not exist" in words


def is_stopping(status: int, body: bytes) -> bool:
    """Whether an engine's answer says that it takes nothing new any more, as it is about to end."""
    return status >= 500 and refusal(body) in _STOPPING


def refusal(body: bytes) -> str:
    """The engine's words for an error in `body`, without the paths of its machine, and not endless."""
    return explain(body)[0]


def explain(body: bytes) -> tuple[str, str | None]:
    """The engine's words for an error in `body`, and the parameter that they blame, where they blame one.

    vLLM names it in one of two ways, told apart by what its validation library and its own checks write.
    """
    try:
        message = str(msgspec.json.decode(body)["error"]["message"])
    except (*NOT_JSON, KeyError, TypeError):
        return "the engine gave no reason", None
    invalid = _INVALID_FIELD.search(message)
    if invalid is not None:
        return _shown(f"{invalid['field']}: {invalid['words']}"), invalid["field"].partition(".")[0]
    blamed = _BLAMED.search(message)
    return _shown(_BLAMED.sub("", message)), blamed["field"] if blamed else None


def _shown(message: str) -> str:
    inner = _WORKER_FAILED.search(message)
    return _PATHS.sub("[path]", inner["words"] if inner else message)[:_MAX_REASON]
