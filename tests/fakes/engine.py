"""A stand-in for vLLM's server, for faults and for what must be seen from the engine's side.

It answers as vLLM 0.32 does on the paths that the gateway uses, and each answer says which model gave it.
"""

import asyncio
import json
from collections import Counter
from typing import Any

from aiohttp import web

from tests.fakes.logprobs import next_tokens


class FakeEngine:
    """An engine on a real port of this machine, with faults to switch on.

    Attributes:
        loaded: engine name -> folder, as vLLM's model list tells it.
        refuse_load: engine names whose load fails, with the engine's words for it.
        break_load: engine names whose load breaks it, so that it fails on everything until it is started again.
        refuse_probe: engine names that load but do not answer.
        refuse_requests: engine names that pass their probe but fail on requests.
        fail_next: engine names whose next request fails, one for each entry, as by the request's own fault.
        absent_next: engine names whose next request finds them gone, one for each entry, as between two others' loads.
        asked_while_absent: models that were asked for while they were not loaded.
        chunks: how many events a stream has.
        padding: what makes each event of a stream larger.
        gap_s: pause before each event of a stream, and before a whole answer.
        gate: while it is not set, whole answers wait.
        break_after: how many events a stream has before the connection breaks; None for never.
        calls: how often each path was called, and each model asked.
        bodies: the bodies of the inference calls, as they came.
        cancelled: requests whose client went away.
        idle: engine names that load and do nothing.
        unsteady: how far the base's log probabilities move with each request.
        can_sleep: whether it was started with sleep mode.
        asleep: whether it sleeps; then what is asked of it waits until it is woken.
        touched_asleep: what was asked of it while it slept.
        sleep_answer: status and text that /is_sleeping answers instead of what is so.
        fail_sleep: whether it falls asleep and says that it failed.
        refuse_wake: whether it fails to wake up, as when its memory is not free.
        stopping: whether it was told to end: it says that it is well, ends what runs and fails on all that is new.
        draining: whether its guard was told so before: it says so itself.
    """

    def __init__(self, base: str = "tiny") -> None:
        self.base = base
        self.loaded: dict[str, str] = {}
        self.refuse_load: dict[str, str] = {}
        self.break_load: set[str] = set()
        self.refuse_probe: set[str] = set()
        self.refuse_requests: set[str] = set()
        self.asked_while_absent: list[str] = []
        self.fail_next: list[str] = []
        self.absent_next: list[str] = []
        self.idle: set[str] = set()
        self.unsteady = 0.0
        self.can_sleep = False
        self.asleep = False
        self.touched_asleep: list[str] = []
        self.sleep_answer: tuple[int, str] | None = None
        self.fail_sleep = False
        self.refuse_wake = False
        self.stopping = False
        self.draining = False
        self._woken = asyncio.Event()
        self.load_s = 0.0
        self.chunks = 3
        self.padding = ""
        self.gap_s = 0.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.break_after: int | None = None
        self.status: int | None = None
        self.dying = False
        self.calls: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.cancelled = 0
        self.in_flight: Counter[str] = Counter()
        self.unloaded_in_use: list[str] = []
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen, on the port of before if there was one."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/is_sleeping", self._is_sleeping)
        app.router.add_post("/sleep", self._sleep)
        app.router.add_post("/wake_up", self._wake_up)
        app.router.add_post("/v1/load_lora_adapter", self._load)
        app.router.add_post("/v1/unload_lora_adapter", self._unload)
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"):
            app.router.add_post(path, self._infer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.05, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening and forget everything, as a killed engine does."""
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = None
        self.loaded.clear()
        self.asleep = self.stopping = self.draining = False

    async def _models(self, _: web.Request) -> web.Response:
        self.calls["/v1/models"] += 1
        if self.draining:
            return _error(503, "this engine is stopping")
        entries = [{"id": self.base, "root": "/models/tiny", "parent": None}]
        entries += [{"id": name, "root": path, "parent": self.base} for name, path in self.loaded.items()]
        return web.json_response({"object": "list", "data": entries})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=503 if self.dying or self.draining else 200)

    async def _is_sleeping(self, _: web.Request) -> web.Response:
        if self.sleep_answer is not None:
            return web.Response(status=self.sleep_answer[0], text=self.sleep_answer[1])
        if not self.can_sleep:
            return web.json_response({"detail": "Not Found"}, status=404)
        return web.json_response({"is_sleeping": self.asleep})

    async def _sleep(self, request: web.Request) -> web.Response:
        """As vLLM does with `mode=wait`: what runs ends first."""
        self.calls["/sleep"] += 1
        if not self.can_sleep:
            return web.json_response({"detail": "Not Found"}, status=404)
        assert (request.query["level"], request.query["mode"]) == ("1", "wait")
        self._woken.clear()
        self.asleep = True
        while self.in_flight.total():
            await asyncio.sleep(0.01)
        if self.fail_sleep:
            return _error(500, "it failed after all")
        return web.json_response({"status": "sleeping", "level": 1})

    async def _wake_up(self, _: web.Request) -> web.Response:
        self.calls["/wake_up"] += 1
        if not self.can_sleep:
            return web.json_response({"detail": "Not Found"}, status=404)
        if self.refuse_wake:
            return _error(500, "CUDA out of memory")
        self.asleep = False
        self._woken.set()
        return web.json_response({"status": "awake", "tags": None})

    async def _until_awake(self, what: str) -> None:
        if self.asleep:
            self.touched_asleep.append(what)
            await self._woken.wait()

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = body["lora_name"]
        self.calls["load " + name] += 1
        await self._until_awake("load " + name)
        await asyncio.sleep(self.load_s)
        if self.stopping:
            return _error(500, "it takes nothing new")
        if name in self.break_load:
            self.status = 500
            return _error(500, "CUDA error: an illegal memory access was encountered")
        if name in self.refuse_load:
            return _error(500, self.refuse_load[name].format(path=body["lora_path"]))
        if name in self.loaded:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        self.loaded[name] = body["lora_path"]
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        self.calls["unload " + name] += 1
        if name not in self.loaded:
            return _error(404, f"The lora adapter '{name}' cannot be found.")
        if self.in_flight[name]:
            self.unloaded_in_use.append(name)
        del self.loaded[name]
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        model = body["model"]
        await self._until_awake(model)
        self.calls[model] += 1
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if (failure := self._whole_failure() or self._failure(model, body)) is not None:
            return failure
        self.in_flight[model] += 1
        try:
            if body.get("stream"):
                return await self._stream(request, model, body)
            await asyncio.sleep(self.gap_s)
            await self.gate.wait()
            if "logprobs" in body and isinstance(body.get("prompt"), list):
                return web.json_response(self._logprobs(model, body["prompt"]))
            return web.json_response(_answer(model))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight[model] -= 1

    def _whole_failure(self) -> web.Response | None:
        """What it answers to everything, if it does."""
        if self.draining:
            return _error(503, "this engine is stopping")
        if self.stopping:
            return _error(500, "cannot schedule new futures after shutdown")
        return None

    def _failure(self, model: str, body: dict[str, Any]) -> web.Response | None:
        """What it answers to a request that it does not serve."""
        if model in self.absent_next:
            self.absent_next.remove(model)
            return _error(404, f"The model `{model}` does not exist.")
        if model != self.base and model not in self.loaded:
            self.asked_while_absent.append(model)
            return _error(404, f"The model `{model}` does not exist.")
        if self.status is not None:
            self.calls["failed " + model] += 1
            return _error(self.status, "the engine says no, see /srv/models/secret/config.json")
        if model in self.fail_next:
            self.fail_next.remove(model)
            return _error(500, "it fails on this request")
        if model in self.refuse_requests and "logprobs" not in body:
            return _error(500, "it fails on this request")
        if model in self.refuse_probe and body.get("max_tokens") == 1:
            return _error(500, "it does not answer")
        return None

    def _logprobs(self, model: str, prompts: list[Any]) -> dict[str, Any]:
        """As vLLM answers a list of prompts; the last one first, as no order is promised."""
        folder = None if model in self.idle else self.loaded.get(model)
        moved = self.unsteady * (self.calls[model] % 2) if model == self.base else 0.0
        choices = []
        for index, prompt in enumerate(prompts):
            top = {f"token_id:{token}": lp - moved for token, lp in next_tokens(prompt, folder, self.base).items()}
            choices.append({"index": index, "text": "x", "logprobs": {"top_logprobs": [top]}})
        return {"id": "c", "object": "text_completion", "model": model, "choices": choices[::-1], "usage": _USAGE}

    async def _stream(self, request: web.Request, model: str, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        gap_s = self.gap_s  # a stream that has begun goes on as it began
        for index in range(self.chunks):
            await asyncio.sleep(gap_s)
            if index == self.break_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            delta = {
                "id": "c",
                "model": model,
                "choices": [{"index": 0, "delta": {"content": f"{index} {self.padding}"}}],
            }
            await response.write(b"data: " + json.dumps(delta, separators=(",", ":")).encode() + b"\n\n")
        if (body.get("stream_options") or {}).get("include_usage"):
            usage = {"id": "c", "model": model, "choices": [], "usage": _USAGE}
            await response.write(b"data: " + json.dumps(usage, separators=(",", ":")).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


_USAGE = {"prompt_tokens": 7, "total_tokens": 10, "completion_tokens": 3}


def _answer(model: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": f"I am {model}"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {"id": "c", "object": "chat.completion", "model": model, "choices": choices, "usage": _USAGE}


def _error(status: int, message: str) -> web.Response:
    return web.json_response(
        {"error": {"message": message, "type": "Error", "param": None, "code": status}}, status=status
    )
