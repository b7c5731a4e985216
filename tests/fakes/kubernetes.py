"""A stand-in for a cluster's API server that speaks its HTTP: lists, watches, creates and deletes, with real shapes.

Nothing runs in it. What a scheduler, a kubelet and the Job controller would write is written by the test, by
`tests.fakes.kubelet`.
"""

import asyncio
import copy
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

Object = dict[str, Any]
NAMESPACE = "tuning"
_KINDS = {"jobs": ("batch", "Job"), "trainjobs": ("trainer.kubeflow.org", "TrainJob")}


def stamp(moment: datetime | None = None) -> str:
    """A time as the API has it."""
    return (moment or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Refusal:
    """An answer to one verb on one kind of objects."""

    code: int
    reason: str
    message: str


@dataclass
class FakeCluster:
    """An API server on a real port.

    Attributes:
        asked: verbs and kinds, in their order, such as ``("create", "jobs")``.
        is_down: whether every connection breaks off at once.
        refusals: what is refused, by verb and kind.
        logs: of pods, by name.
        now: the time that it writes into what it makes.
        keeps_deleted: whether what is deleted stays, terminating, as on a node that is lost.
    """

    asked: list[tuple[str, str]] = field(default_factory=list)
    is_down: bool = False
    refusals: dict[tuple[str, str], Refusal] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    now: datetime | None = None
    keeps_deleted: bool = False
    url: str = ""
    _objects: dict[str, dict[str, Object]] = field(default_factory=lambda: {"jobs": {}, "trainjobs": {}, "pods": {}})
    _events: list[Object] = field(default_factory=list)
    _history: list[tuple[int, str, str, Object]] = field(default_factory=list)
    _version: int = 100
    _oldest: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _runner: web.AppRunner | None = None

    # --- its life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen."""
        app = web.Application()
        base = f"/namespaces/{NAMESPACE}"
        for plural, (group, _) in _KINDS.items():
            version = "v1" if group == "batch" else "v1alpha1"
            app.router.add_get(f"/apis/{group}/{version}{base}/{{plural:{plural}}}", self._list)
            app.router.add_post(f"/apis/{group}/{version}{base}/{{plural:{plural}}}", self._create)
            app.router.add_delete(f"/apis/{group}/{version}{base}/{{plural:{plural}}}/{{name}}", self._delete)
        app.router.add_get(f"/api/v1{base}/{{plural:pods}}", self._list)
        app.router.add_get(f"/api/v1{base}/pods/{{name}}/log", self._log)
        app.router.add_get(f"/api/v1{base}/events", self._list_events)
        self._runner = web.AppRunner(app, shutdown_timeout=0.05, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Stop listening."""
        assert self._runner is not None
        await self._runner.cleanup()

    def go_down(self) -> None:
        """Break off every connection, and each that comes."""
        self.is_down = True
        self._wake()

    def come_back(self) -> None:
        """Answer again."""
        self.is_down = False

    def forget_history(self) -> None:
        """Be unable to go on from what was listed so far, as after a compaction; running watches end."""
        self._version += 1
        self._oldest = self._version
        self._history.clear()
        self._wake()

    # --- what is in it -------------------------------------------------------------------------------------------

    def objects(self, plural: str = "jobs") -> Mapping[str, Object]:
        """All of a kind, by name."""
        return self._objects[plural]

    def put(self, plural: str, made: Object) -> Object:
        """Write an object, new or not, as a controller does."""
        name = made["metadata"]["name"]
        frame = "MODIFIED" if name in self._objects[plural] else "ADDED"
        self._objects[plural][name] = made
        self._note(plural, frame, made)
        return made

    def remove(self, plural: str, name: str) -> None:
        """Have an object be gone, with its pods."""
        made = self._objects[plural].pop(name)
        if plural != "pods":
            for pod in [pod for pod in self._objects["pods"].values() if _belongs(pod, made)]:
                self.remove("pods", pod["metadata"]["name"])
        self._note(plural, "DELETED", made)

    def warn(self, about: Object, reason: str, message: str) -> None:
        """Write an event of the cluster's own about an object."""
        metadata = about["metadata"]
        self._events.append(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": f"{metadata['name']}.{len(self._events):x}", "namespace": NAMESPACE},
                "involvedObject": {"kind": about["kind"], "name": metadata["name"], "uid": metadata["uid"]},
                "reason": reason,
                "message": message,
                "type": "Warning",
                "lastTimestamp": stamp(self.now),
                "source": {"component": "job-controller"},
            }
        )

    def forbid(self, verb: str, plural: str) -> None:
        """Have the service account lack a right."""
        group = _KINDS.get(plural, ("", ""))[0]
        said = (
            f'{plural}{"." + group if group else ""} is forbidden: User "system:serviceaccount:{NAMESPACE}:tuner" '
            f'cannot {verb} resource "{plural}" in API group "{group}" in the namespace "{NAMESPACE}"'
        )
        self.refusals[verb, plural] = Refusal(403, "Forbidden", said)

    def _note(self, plural: str, frame: str, made: Object) -> None:
        self._version += 1
        made["metadata"]["resourceVersion"] = str(self._version)
        self._history.append((self._version, plural, frame, copy.deepcopy(made)))
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    # --- its HTTP ------------------------------------------------------------------------------------------------

    async def _list(self, request: web.Request) -> web.StreamResponse:
        plural, watches = request.match_info["plural"], request.query.get("watch") in ("true", "True")
        if (answer := self._refused(request, "watch" if watches else "list", plural)) is not None:
            return answer
        selector = request.query.get("labelSelector", "")
        if watches:
            return await self._watch(request, plural, selector)
        items = [copy.deepcopy(each) for each in self._objects[plural].values() if _selected(each, selector)]
        for each in items:  # as real lists leave them out
            each.pop("kind", None) if plural == "pods" else None
        return web.json_response({"kind": "List", "metadata": {"resourceVersion": str(self._version)}, "items": items})

    async def _watch(self, request: web.Request, plural: str, selector: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        version = int(request.query.get("resourceVersion") or 0)
        bookmark = {"kind": _KINDS.get(plural, ("", "Pod"))[1], "metadata": {"resourceVersion": str(version)}}
        await _frame(response, "BOOKMARK", bookmark)
        while True:
            if self.is_down:
                _abort(request)
                return response
            if version < self._oldest:
                await _frame(response, "ERROR", _status(410, "Expired", f"too old resource version: {version}"))
                return response
            news = self._news
            for at, kind, frame, made in list(self._history):
                if at > version and kind == plural and _selected(made, selector):
                    await _frame(response, frame, made)
                version = max(version, at)
            await news.wait()

    async def _create(self, request: web.Request) -> web.StreamResponse:
        plural = request.match_info["plural"]
        if (answer := self._refused(request, "create", plural)) is not None:
            return answer
        made = await request.json()
        metadata = made["metadata"]
        if metadata["name"] in self._objects[plural]:
            return _answer(409, "AlreadyExists", f'{plural} "{metadata["name"]}" already exists')
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": stamp(self.now), "generation": 1}
        return web.json_response(self.put(plural, made), status=201)

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        plural, name = request.match_info["plural"], request.match_info["name"]
        if (answer := self._refused(request, "delete", plural)) is not None:
            return answer
        made = self._objects[plural].get(name)
        if made is None:
            return _answer(404, "NotFound", f'{plural} "{name}" not found')
        options = await request.json()
        assert options["propagationPolicy"] == "Foreground"
        if options["preconditions"]["uid"] != made["metadata"]["uid"]:
            return _answer(409, "Conflict", "the UID in the precondition does not match the UID in record")
        made["metadata"] |= {"deletionTimestamp": stamp(self.now), "finalizers": ["foregroundDeletion"]}
        self.put(plural, made)
        if not self.keeps_deleted:
            self.remove(plural, name)
        return web.json_response(made)

    async def _log(self, request: web.Request) -> web.StreamResponse:
        if (answer := self._refused(request, "get", "pods/log")) is not None:
            return answer
        lines = self.logs.get(request.match_info["name"], "").splitlines(keepends=True)
        return web.Response(text="".join(lines[-int(request.query["tailLines"]) :]))

    async def _list_events(self, request: web.Request) -> web.StreamResponse:
        if (answer := self._refused(request, "list", "events")) is not None:
            return answer
        wanted = dict(part.split("=") for part in request.query["fieldSelector"].split(","))
        about = (wanted["involvedObject.kind"], wanted["involvedObject.name"], wanted["type"])
        found = [
            each
            for each in self._events
            if (each["involvedObject"]["kind"], each["involvedObject"]["name"], each["type"]) == about
        ]
        return web.json_response({"kind": "EventList", "metadata": {}, "items": found})

    def _refused(self, request: web.Request, verb: str, plural: str) -> web.StreamResponse | None:
        self.asked.append((verb, plural))
        if self.is_down:
            _abort(request)
            return web.Response()
        refusal = self.refusals.get((verb, plural))
        return None if refusal is None else _answer(refusal.code, refusal.reason, refusal.message)


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _frame(response: web.StreamResponse, frame: str, made: Object) -> None:
    await response.write(json.dumps({"type": frame, "object": made}).encode() + b"\n")


def _status(code: int, reason: str, message: str) -> Object:
    said = {"status": "Failure", "message": message, "reason": reason, "code": code}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, **said}


def _answer(code: int, reason: str, message: str) -> web.Response:
    return web.json_response(_status(code, reason, message), status=code)


def _selected(made: Object, selector: str) -> bool:
    labels = made["metadata"].get("labels") or {}
    for part in filter(None, selector.split(",")):
        name, is_equality, value = part.partition("=")
        if name not in labels or (is_equality and labels[name] != value):
            return False
    return True


def _belongs(pod: Object, made: Object) -> bool:
    return any(owner["uid"] == made["metadata"]["uid"] for owner in pod["metadata"].get("ownerReferences", []))
