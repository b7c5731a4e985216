"""The agent's composition root: `create_agent` wires the cache and the loader, and this is all that it answers."""

import asyncio
import contextlib
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Annotated, Any

import aiohttp
import msgspec
from litestar import Litestar, Request, Response, Router, delete, get, post, put
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.handlers.base import BaseRouteHandler
from litestar.params import FromPath
from msgspec import Meta
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from agent.cache import Cache, is_digest
from agent.engine import Engine
from agent.errors import AgentError, InvalidRequest, NotFound, Unauthenticated, envelope
from agent.loading import Loader, RegisteredVersion
from agent.metrics import AgentMetrics
from agent.settings import AgentSettings
from agent.threads import in_daemon_thread
from registry.artifact_files import ArtifactReader
from registry.errors import StoreFailure
from registry.wording import plain

log = logging.getLogger(__name__)

_STORE_LOOK_S = 30.0
_STORE_ANSWER_S = 10.0
_NO_STORE_YET = "the artifact store has not answered yet"
_STORE_HANGS = "the artifact store does not answer"
_ENGINE_KEEPALIVE_S = 4.0
"""Below vLLM's own 5 s, so that no request goes out on a connection that the engine is just closing."""
AnyRequest = Request[Any, Any, State]


class Health(msgspec.Struct, frozen=True):
    """How the agent does."""

    status: str
    problems: list[str] = []


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a version is to be loaded from: its digest, SHA-256 in hex."""

    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Fetched(msgspec.Struct, frozen=True):
    """A version that lies in the agent's folder, and the content of its `probes.json` (in base64), if it has one."""

    digest: str
    probes: bytes | None


class LoadedVersion(msgspec.Struct, frozen=True):
    """A version that the engine has now; `loaded` says whether it had it not before."""

    engine_name: str
    digest: str
    loaded: bool


class Versions(msgspec.Struct, frozen=True):
    """What the engine has."""

    data: list[RegisteredVersion]


class Sleeping(msgspec.Struct, frozen=True):
    """Whether the engine sleeps."""

    is_sleeping: bool


@get("/livez")
async def livez() -> Health:
    """200 as long as the process answers."""
    return Health("ok")


@get("/readyz")
async def readyz(state: State) -> Response[Health]:
    """200 while vLLM answers. A store that is away is told, but must not take an engine that serves out of service."""
    engine: Engine = state.engine
    is_up = await engine.is_healthy()
    state.metrics.engine_up.set(is_up)
    problems = [] if is_up else ["the agent's engine does not answer"]
    problems += [state.store_problem] if state.store_problem else []
    return Response(Health("ok" if is_up else "not ready", problems), status_code=200 if is_up else 503)


@get("/metrics", media_type="text/plain")
async def metrics(state: State) -> Response[bytes]:
    """What lies in the cache and what came of loads, in Prometheus' text format."""
    return Response(generate_latest(state.metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})


@get("/versions")
async def list_versions(state: State) -> Versions:
    """What the engine has registered."""
    return Versions(await state.loader.versions())


@put("/versions/{engine_name:str}")
async def put_version(request: AnyRequest, state: State, engine_name: FromPath[str]) -> Response[LoadedVersion]:
    """Have the engine know a version: 201 if that is new, 200 if it had it already."""
    digest = _content(await request.body()).digest
    is_new = await state.loader.load(engine_name, digest)
    return Response(LoadedVersion(engine_name, digest, is_new), status_code=201 if is_new else 200)


@put("/contents/{digest:str}")
async def put_content(state: State, digest: FromPath[str]) -> Fetched:
    """Have a version's files here, whole and held against the digest; its engine is not told of it."""
    if not is_digest(digest):
        raise InvalidRequest("a content is named by its digest: 64 hex digits")
    return Fetched(digest, await state.loader.fetch(digest))


@delete("/versions/{engine_name:str}")
async def delete_version(state: State, engine_name: FromPath[str]) -> None:
    """Have the engine forget a version; its files stay as long as there is room."""
    await state.loader.unload(engine_name)


@get("/is_sleeping")
async def is_sleeping(state: State) -> Sleeping:
    """Whether the engine sleeps."""
    return Sleeping(await state.engine.is_sleeping())


@post("/sleep", status_code=200)
async def sleep(state: State) -> Sleeping:
    """Have the engine end what it does, and sleep."""
    await state.engine.sleep()
    return Sleeping(is_sleeping=True)


@post("/wake_up", status_code=200)
async def wake_up(state: State) -> Sleeping:
    """Have the engine serve again."""
    await state.engine.wake_up()
    return Sleeping(is_sleeping=False)


def create_agent(settings: AgentSettings) -> Litestar:
    """Wire the agent.

    Raises:
        ValueError: the store's URL is wrong or the package for it is not installed, or the cache cannot be used.
    """
    reader = _reader(settings)
    found = AgentMetrics()
    state = State({"metrics": found, "store_problem": _NO_STORE_YET, "token": settings.agent_token})
    cache = _cache(settings, reader, found, lambda: state.engine.folders())  # noqa: PLW0108 - it comes with the loop

    @contextlib.asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        connections = aiohttp.TCPConnector(keepalive_timeout=_ENGINE_KEEPALIVE_S)
        async with aiohttp.ClientSession(connector=connections) as session:
            state["engine"] = engine = Engine(settings.agent_engine_url, session)
            state["loader"] = loader = Loader(engine, cache, found)
            look = asyncio.create_task(_follow_store(state, reader))
            try:
                yield
            finally:
                look.cancel()
                await asyncio.gather(look, loader.close(), cache.close(), return_exceptions=True)

    management = Router(
        "/v1",
        route_handlers=[list_versions, put_content, put_version, delete_version, is_sleeping, sleep, wake_up],
        guards=[token_guard],
    )
    return Litestar(
        [livez, readyz, metrics, management],
        lifespan=[lifespan],
        state=state,
        exception_handlers={Exception: render_error},
        openapi_config=None,
        logging_config=None,
    )


def token_guard(connection: ASGIConnection[Any, Any, Any, State], _handler: BaseRouteHandler) -> None:
    """Let through who has the agent's token; all, if it has none."""
    token: str = connection.app.state.token
    shown = connection.headers.get("authorization", "")
    if token and not hmac.compare_digest(shown.encode(), f"Bearer {token}".encode()):
        raise Unauthenticated("this needs the agent's token, as `Authorization: Bearer TOKEN` (OSTLER_AGENT_TOKEN)")


def render_error(_request: AnyRequest, error: Exception) -> Response[bytes]:
    """OpenAI's envelope."""
    if isinstance(error, AgentError | StoreFailure):
        told: AgentError | StoreFailure = error
    elif isinstance(error, HTTPException) and error.status_code < 500:
        told = NotFound("the agent has no such path") if error.status_code == 404 else InvalidRequest(error.detail)
        told.status = error.status_code
    else:
        log.error("a request failed", exc_info=error)
        told = AgentError("the agent failed; its log says why")
    headers = {"www-authenticate": "Bearer"} if told.status == 401 else {}
    return Response(envelope(told), status_code=told.status, headers=headers, media_type="application/json")


def _content(body: bytes) -> Content:
    try:
        return msgspec.json.decode(body, type=Content)
    except msgspec.ValidationError as error:
        raise InvalidRequest(plain(error, Content, "the body")) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidRequest('the body must be JSON like {"digest": "<64 hex digits>"}') from None


async def _follow_store(state: State, reader: ArtifactReader) -> None:
    """Keep looking whether the store answers, for ever."""
    while True:
        problem = None
        look = asyncio.ensure_future(in_daemon_thread(reader.reach))
        done, _ = await asyncio.wait({look}, timeout=_STORE_ANSWER_S)
        if not done:
            _tell_of_store(state, _STORE_HANGS)
        try:
            await look
        except StoreFailure as failure:
            problem = failure.message
        _tell_of_store(state, problem)
        await asyncio.sleep(_STORE_LOOK_S)


def _tell_of_store(state: State, problem: str | None) -> None:
    if problem not in (None, state["store_problem"]):
        log.warning("%s", problem)
    state["store_problem"] = problem
    state.metrics.store_reachable.set(problem is None)


def _reader(settings: AgentSettings) -> ArtifactReader:
    try:
        return ArtifactReader(settings.artifacts)
    except (ImportError, ValueError) as error:
        raise ValueError(f"the artifact store in OSTLER_ARTIFACTS_URL cannot be used: {error}") from error


def _cache(
    settings: AgentSettings,
    reader: ArtifactReader,
    metrics: AgentMetrics,
    in_use: Callable[[], Awaitable[Collection[str]]],
) -> Cache:
    try:
        return Cache(reader, settings.agent_cache.absolute(), settings.cache_bytes, in_use, metrics)
    except OSError as error:
        raise ValueError(f"the folder in OSTLER_AGENT_CACHE cannot be used: {error.strerror}") from None
