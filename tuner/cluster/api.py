"""The cluster's API server, as far as a dispatcher asks it, through the official client. All of it blocks.

Objects are the plain JSON of the API, so that a Job and a TrainJob, and older and newer servers, are read alike.
"""

import contextlib
import json
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes import config
from kubernetes.client import ApiClient, ApiException, Configuration, CoreV1Api, CustomObjectsApi
from kubernetes.watch.watch import iter_resp_lines
from urllib3.exceptions import HTTPError

from tuner.cluster.errors import ClusterAway, ClusterError, ClusterRefused, Expired

Object = dict[str, Any]
_ANSWER_S = (5.0, 30.0)
"""To connect, and between bytes of an answer, seconds."""
_WATCH_S = 60
"""After that long the server ends a watch, which then goes on where it was."""
_SILENCE_S = _WATCH_S + 15.0
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _GONE, _TOO_MANY, _SERVER_ERROR = 401, 403, 404, 410, 429, 500
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of objects; a `group` of "" is Kubernetes' core."""

    group: str
    version: str
    name: str
    plural: str

    @property
    def resource(self) -> str:
        """As roles name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


JOB = Kind("batch", "v1", "Job", "jobs")
TRAIN_JOB = Kind("trainer.kubeflow.org", "v1alpha1", "TrainJob", "trainjobs")
POD = Kind("", "v1", "Pod", "pods")
EVENT = Kind("", "v1", "Event", "events")


@dataclass(frozen=True, slots=True)
class Listing:
    """The objects of a list, and its version, from which a watch goes on."""

    items: Sequence[Object]
    version: str


class WatchStream:
    """The frames of one watch: ``ADDED``, ``MODIFIED`` or ``DELETED`` with an object, or ``BOOKMARK``."""

    def __init__(self, response: Any, doing: str) -> None:
        self._response = response
        self._doing = doing

    def __iter__(self) -> Iterator[tuple[str, Object]]:
        """Each as it comes, until the server ends the watch.

        Raises:
            Expired, ClusterRefused, ClusterAway
        """
        with _translated(self._doing):
            for line in iter_resp_lines(self._response):
                if not line.strip():
                    continue
                frame = json.loads(line)
                if frame["type"] == "ERROR":
                    raise _refusal(frame["object"], self._doing)
                yield frame["type"], frame["object"]

    def close(self) -> None:
        """End it, also while another thread waits for its next frame."""
        sock = getattr(getattr(self._response, "connection", None), "sock", None)
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class Cluster:
    """One namespace of a cluster.

    Args:
        client: knows the server and who asks.
        namespace: that everything happens in.
    """

    def __init__(self, client: ApiClient, namespace: str) -> None:
        self.namespace = namespace
        self._custom = CustomObjectsApi(client)
        self._core = CoreV1Api(client)

    def create(self, kind: Kind, body: Object) -> Object:
        """Make an object; as the server has it.

        Raises:
            ClusterError: with status 409 there is one of that name.
        """
        call = self._custom.create_namespaced_custom_object
        return self._json(f"create {kind.resource}", lambda **more: call(*self._place(kind), body, **more))

    def delete(self, kind: Kind, name: str, uid: str) -> None:
        """Delete that very object and, before it is gone, its pods.

        Raises:
            ClusterError: with status 404 or 409 it is not there any more.
        """
        body = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        call = self._custom.delete_namespaced_custom_object
        self._json(f"delete {kind.resource}", lambda **more: call(*self._place(kind), name, body=body, **more))

    def listed(self, kind: Kind, selector: str) -> Listing:
        """The objects with some labels.

        Raises:
            ClusterError
        """
        found = self._json(f"list {kind.resource}", self._list(kind, selector))
        return Listing(found.get("items") or [], found["metadata"].get("resourceVersion", ""))

    def watch(self, kind: Kind, selector: str, version: str) -> WatchStream:
        """What happens to them from that version on.

        Raises:
            ClusterError
        """
        doing = f"watch {kind.resource}"
        call = self._list(kind, selector)
        said = {"watch": True, "resource_version": version, "allow_watch_bookmarks": True}
        with _translated(doing):
            times = {"timeout_seconds": _WATCH_S, "_request_timeout": (_ANSWER_S[0], _SILENCE_S)}
            return WatchStream(call(**said, **times, _preload_content=False), doing)

    def log_tail(self, pod: str, container: str, lines: int) -> str:
        """The last lines that a container of a pod has written.

        Raises:
            ClusterError
        """
        with _translated("get pods/log"):
            response = self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=container,
                tail_lines=lines,
                _preload_content=False,
                _request_timeout=_ANSWER_S,
            )
            return str(response.data.decode(errors="replace"))

    def warnings(self, kind: Kind, name: str) -> list[str]:
        """What the cluster's own events warn of about an object, the newest last.

        Raises:
            ClusterError
        """
        about = f"involvedObject.kind={kind.name},involvedObject.name={name},type=Warning"
        call = self._core.list_namespaced_event
        found = self._json("list events", lambda **more: call(self.namespace, field_selector=about, **more))
        events = sorted(found.get("items") or [], key=_time_of)
        return [event["message"] for event in events if event.get("message")]

    def _place(self, kind: Kind) -> tuple[str, str, str, str]:
        return kind.group, kind.version, self.namespace, kind.plural

    def _list(self, kind: Kind, selector: str) -> Callable[..., Any]:
        if kind == POD:
            core = self._core.list_namespaced_pod
            return lambda **more: core(self.namespace, label_selector=selector, **more)
        custom = self._custom.list_namespaced_custom_object
        return lambda **more: custom(*self._place(kind), label_selector=selector, **more)

    def _json(self, doing: str, call: Callable[..., Any]) -> Object:
        with _translated(doing):
            answer: Object = json.loads(call(_preload_content=False, _request_timeout=_ANSWER_S).data)
            return answer


def connect(namespace: str) -> Cluster:
    """The cluster that this process runs in, else that of the kubeconfig.

    Raises:
        ValueError: there is neither.
    """
    settings = Configuration()
    try:
        config.load_incluster_config(client_configuration=settings)
        found = _NAMESPACE_FILE.read_text().strip()
    except (config.ConfigException, OSError):
        found = _from_kubeconfig(settings)
    settings.retries = 0  # what fails is tried again by who asked
    return Cluster(ApiClient(settings), namespace or found)


def _from_kubeconfig(settings: Configuration) -> str:
    """Have the settings of the kubeconfig's current context; its namespace."""
    try:
        config.load_kube_config(client_configuration=settings)
        _, current = config.list_kube_config_contexts()
    except (config.ConfigException, OSError) as error:
        raise ValueError(
            "the kubernetes backend found no cluster: run it in a pod with a service account, or set KUBECONFIG"
        ) from error
    return str(current["context"].get("namespace") or "default")


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Have the client's errors be ours."""
    try:
        yield
    except ApiException as error:
        raise _refusal(_status_of(error), doing) from error
    except (HTTPError, OSError, json.JSONDecodeError) as error:
        raise ClusterAway("the cluster's API server does not answer") from error


def _status_of(error: ApiException) -> Object:
    """The server's Status object, however much of it came."""
    try:
        found = json.loads(error.body)
    except (TypeError, ValueError):
        found = None
    status = found if isinstance(found, dict) else {}
    return {"code": error.status, "message": status.get("message") or str(error.reason)}


def _refusal(status: Object, doing: str) -> ClusterError:
    """Our error for a Status of the server; `doing` is a verb and a resource."""
    code, said = int(status.get("code") or 0), str(status.get("message") or "")
    if code == _GONE:
        return Expired("the list is too old to go on from", code, said)
    if code == _TOO_MANY or code >= _SERVER_ERROR:
        return ClusterAway(f"the cluster's API server cannot do it now ({code})")
    return ClusterRefused(_plainly(code, said, doing), code, said)


def _plainly(code: int, said: str, doing: str) -> str:
    verb, _, resource = doing.partition(" ")
    if code == _UNAUTHORIZED:
        return "the cluster's API server does not know who asks: the tuner's service account, or its token, is wrong"
    if code == _FORBIDDEN and f"cannot {verb}" in said:
        return f"the tuner's service account may not {verb} {resource} in its namespace: its role lacks that verb"
    if code == _NOT_FOUND and verb in ("list", "watch", "create"):
        return f"the cluster does not know {resource}, or not this namespace"
    return f"the cluster refuses to {verb} {resource} ({code})"


def _time_of(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")
