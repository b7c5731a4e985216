"""The passwords of the embedded servers: made once, and the same after an upgrade, whose volumes they open."""

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

import pytest
import yaml  # type: ignore[import-untyped]

from tests.helm.chart import CHART, HELMS, NAMESPACE, RELEASE, value_file

_SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/{RELEASE}-ostler-embedded"
# How helm knows what is a release's own; what it kept after an uninstallation has it still, and is taken over again.
_OWNED = {
    "labels": {"app.kubernetes.io/managed-by": "Helm"},
    "annotations": {"meta.helm.sh/release-name": RELEASE, "meta.helm.sh/release-namespace": NAMESPACE},
}
_KINDS = {
    "v1": ("Secret", "Service", "ServiceAccount", "ConfigMap", "Pod"),
    "apps/v1": ("Deployment", "StatefulSet"),
    "batch/v1": ("Job",),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "policy/v1": ("PodDisruptionBudget",),
}
_MISSING = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}


class _Cluster(BaseHTTPRequestHandler):
    """An API server that knows the kinds of a small release, and of objects one Secret at most."""

    data: ClassVar[dict[str, str] | None] = None

    def do_GET(self) -> None:
        """Answer what helm asks on its way to a Secret."""
        found = self._answers().get(self.path.partition("?")[0])
        body = json.dumps(found or _MISSING).encode()
        self.send_response(200 if found else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answers(self) -> dict[str, Any]:
        known = _discovery()
        if self.data is None:
            return known
        coded = {name: base64.b64encode(value.encode()).decode() for name, value in self.data.items()}
        metadata = {"name": _SECRET.rpartition("/")[2], "namespace": NAMESPACE, **_OWNED}
        return known | {_SECRET: {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": coded}}

    def log_message(self, *_: object) -> None:
        """Nothing, as the tests' output is for failures."""


def _discovery() -> dict[str, Any]:
    """What tells helm which kinds there are."""
    groups = [
        {"name": version.partition("/")[0], "versions": [{"groupVersion": version, "version": "v1"}]}
        for version in _KINDS
        if "/" in version
    ]
    found: dict[str, Any] = {
        "/version": {"major": "1", "minor": "30", "gitVersion": "v1.30.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
    }
    for version, kinds in _KINDS.items():
        path = f"/apis/{version}" if "/" in version else f"/api/{version}"
        resources = [{"name": _plural(kind), "namespaced": True, "kind": kind, "verbs": ["get"]} for kind in kinds]
        found[path] = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
    return found


def _plural(kind: str) -> str:
    return kind.lower().removesuffix("y") + ("ies" if kind.endswith("y") else "s")


@pytest.fixture
def cluster() -> Iterator[tuple[type[_Cluster], str]]:
    """A cluster without Secrets, and its address."""

    class Own(_Cluster):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield Own, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def rendered(version: str, address: str) -> dict[str, str]:
    """The embedded Secret as helm renders it before that cluster."""
    only = ("--show-only=templates/embedded/secret.yaml", f"--values={value_file('tryout')}")
    asking = ("--dry-run=server", "--disable-openapi-validation", f"--namespace={NAMESPACE}")
    environment = {**os.environ, "HELM_KUBEAPISERVER": address, "KUBECONFIG": os.devnull}
    command = [str(HELMS[version]), "template", RELEASE, str(CHART), *only, *asking]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, str] = yaml.safe_load(ran.stdout)["stringData"]
    return found


@pytest.mark.parametrize("version", sorted(HELMS))
def test_an_upgrade_keeps_the_passwords(version: str, cluster: tuple[type[_Cluster], str]) -> None:
    """What the Secret of the release holds stays, character by character, and so do the URLs made of it."""
    own, address = cluster
    own.data = rendered(version, address)

    assert rendered(version, address) == own.data


@pytest.mark.parametrize("version", sorted(HELMS))
def test_first_passwords_are_random_and_what_is_new_is_added(version: str, cluster: tuple[type[_Cluster], str]) -> None:
    """Two installations share none; an upgrade that brings another password makes that one alone."""
    own, address = cluster
    first, second = rendered(version, address), rendered(version, address)
    own.data = {"postgresql-password": "the-old-one"}
    upgraded = rendered(version, address)

    assert not set(first.values()) & set(second.values())
    assert all(len(first[name]) >= 32 for name in ("postgresql-password", "api-key", "secret-access-key"))
    assert upgraded["postgresql-password"] == "the-old-one"
    assert ":the-old-one@" in upgraded["database-url"]
    assert len(upgraded["api-key"]) >= 32
