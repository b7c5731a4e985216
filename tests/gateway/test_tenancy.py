"""What a key may not use does not exist for it: every route is walked with keys of every kind.

A new route fails the first test here until it is listed, and with that walked by the others.
"""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from gateway.inference import PATHS
from registry.catalog import Scope
from tests.conftest import RunningGateway, until
from tests.gateway.answers import new_key

OPEN = {"/livez", "/readyz", "/schema", "/schema/openapi.json", "/schema/{path}"}
MODELS = {"/v1/models", "/v1/models/{model}"}
INFERENCE = set(PATHS)
FEEDBACK = {"/v1/feedback"}
TUNING = {
    "/v1/files",
    "/v1/files/{file_id}",
    "/v1/files/{file_id}/content",
    "/v1/fine_tuning/jobs",
    "/v1/fine_tuning/jobs/{fine_tuning_job_id}",
    "/v1/fine_tuning/jobs/{fine_tuning_job_id}/cancel",
    "/v1/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints",
    "/v1/fine_tuning/jobs/{fine_tuning_job_id}/events",
    "/v1/fine_tuning/jobs/{fine_tuning_job_id}/pause",
    "/v1/fine_tuning/jobs/{fine_tuning_job_id}/report",
    "/v1/fine_tuning/jobs/{fine_tuning_job_id}/resume",
}
ADMIN = {
    "/metrics",
    "/admin/v1/adapters",
    "/admin/v1/adapters/{name}",
    "/admin/v1/adapters/{name}/deployment",
    "/admin/v1/adapters/{name}/rollback",
    "/admin/v1/adapters/{name}/history",
    "/admin/v1/adapters/{name}/datasets",
    "/admin/v1/adapters/{name}/drift",
    "/admin/v1/adapters/{name}/golden-sets",
    "/admin/v1/adapters/{name}/evaluations",
    "/admin/v1/adapters/{name}/evaluations/{evaluation_id}",
    "/admin/v1/adapters/{name}/approve",
    "/admin/v1/adapters/{name}/monitoring",
    "/admin/v1/adapters/{name}/pause",
    "/admin/v1/adapters/{name}/policy",
    "/admin/v1/adapters/{name}/policy/check",
    "/admin/v1/adapters/{name}/policy/history",
    "/admin/v1/adapters/{name}/quality",
    "/admin/v1/adapters/{name}/reject",
    "/admin/v1/adapters/{name}/resume",
    "/admin/v1/adapters/{name}/versions",
    "/admin/v1/adapters/{name}/versions/{number}",
    "/admin/v1/adapters/{name}/versions/{number}/report",
    "/admin/v1/adapters/{name}/versions/{number}/verify",
    "/admin/v1/adapters/{name}/why",
    "/admin/v1/audit",
    "/admin/v1/costs",
    "/admin/v1/decisions",
    "/admin/v1/drift/{drift_id}/report",
    "/admin/v1/feedback",
    "/admin/v1/freeze",
    "/admin/v1/keys",
    "/admin/v1/keys/{key_id}",
    "/admin/v1/keys/{key_id}/rotate",
    "/admin/v1/replicas",
    "/admin/v1/replicas/{replica_id}/sleep",
    "/admin/v1/replicas/{replica_id}/wake",
    "/admin/v1/requests",
    "/admin/v1/usage",
    "/admin/v1/webhooks",
    "/admin/v1/webhooks/{webhook_id}",
    "/admin/v1/webhooks/{webhook_id}/rotate",
    "/admin/v1/webhooks/{webhook_id}/test",
    "/admin/v1/webhooks/deliveries",
    "/admin/v1/webhooks/deliveries/{delivery_id}",
    "/admin/v1/webhooks/deliveries/{delivery_id}/retry",
}
IDS = {
    "number": 1,
    "key_id": "key_0",
    "evaluation_id": "run_0",
    "drift_id": "run_0",
    "file_id": "file-0",
    "fine_tuning_job_id": "ftjob-0",
    "replica_id": "engine-9",
    "webhook_id": "hook_0",
    "delivery_id": "msg_0",
}
METHODS = ("GET", "POST", "PATCH", "DELETE", "PUT", "OPTIONS")
WHO_MAY = {
    Scope.INFERENCE: INFERENCE | MODELS,
    Scope.FEEDBACK: FEEDBACK,
    Scope.TUNING: MODELS | TUNING,
    Scope.METRICS: {"/metrics"},
    Scope.ADMIN: INFERENCE | MODELS | FEEDBACK | TUNING | ADMIN,
}

Answers = dict[tuple[str, str], tuple[int, list[tuple[str, str]], str]]


def routes(gateway: RunningGateway) -> set[tuple[str, str]]:
    """Every path with every method that it takes."""
    found = {(path, "POST") for path in PATHS}
    for route in gateway.app.routes:
        methods = set(getattr(route, "methods", ())) - {"OPTIONS"} or {"POST"}
        found |= {(getattr(route, "path_format", route.path), method) for method in methods}
    return found


def test_every_route_is_walked(gateway: RunningGateway) -> None:
    """One that is not listed above would not be."""
    assert {path for path, _ in routes(gateway)} == OPEN | MODELS | INFERENCE | FEEDBACK | TUNING | ADMIN


def spoken(name: str, digest: str) -> list[str]:
    """All that a client may say as `model` about an adapter."""
    return [name, f"{name}@1", f"{name}@2", f"{name}@9", f"{name}@1-{digest}", f"{name}@1-00000000", name + "@"]


def calls(name: str, digest: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every route with every method, about an adapter."""
    for path in sorted(OPEN | ADMIN | FEEDBACK | TUNING | {"/v1/models"}):
        filled = path.format(name=name, path=name, **IDS)
        for method in METHODS:
            yield method, filled, {"json": {"stable": 1, "archived": True, "name": name}}
            yield method, filled, {}
    for model in spoken(name, digest):
        for method in METHODS:
            yield method, f"/v1/models/{model}", {}
        for path in sorted(INFERENCE):
            for fields in ({}, {"stream": True}, {"user": name}):
                body = {"model": model, "messages": [], "prompt": "x", "input": "x", **fields}
                yield "POST", path, {"json": body}
            yield "GET", path, {}


async def ask_everything(gateway: RunningGateway, secret: str, name: str, digest: str) -> Answers:
    """Every call's status, headers and body, without what differs each time, and with the name taken out."""
    answers: Answers = {}
    headers = {"authorization": f"Bearer {secret}", "x-request-id": "same"}
    for number, (method, path, arguments) in enumerate(calls(name, digest)):
        response = await gateway.http.request(method, path, headers=headers, **arguments)
        shown = sorted((key, value) for key, value in response.headers.items() if key != "date")
        what = f"{number} {path} {arguments.get('json', '')}".replace(name, "NAME")
        answers[method, what] = (response.status_code, shown, response.text.replace(name, "NAME"))
    return answers


async def deploy_with_everything(gateway: RunningGateway, name: str) -> str:
    """An adapter with versions, canary, shadow, fallback, history, traffic and a failure; its digest."""
    first = await gateway.push(name, 3.0)
    await gateway.push(name, 4.0)
    third = await gateway.push(name, 5.0)
    assert (await gateway.promote(name, 1)).is_success
    change = {"canary": {"version": 2, "weight": 0.5}, "shadow": {"version": "base", "share": 1}, "fallback": "base"}
    path = f"/admin/v1/adapters/{name}/deployment"
    assert (await gateway.http.patch(path, json=change)).is_success
    gateway.engine.refuse_load[third["engine_name"]] = "no"
    assert (await gateway.promote(name, 3)).status_code == 409
    for model in (name, f"{name}@1", f"{name}@2"):
        assert (await gateway.chat(model)).status_code == 200
    assert (await gateway.chat(f"{name}@3")).status_code == 503
    digest: str = first["digest"][:8]
    return digest


@pytest.fixture
async def alpha(gateway: RunningGateway) -> RunningGateway:
    """A gateway with the adapter `alpha` in service."""
    await gateway.push("alpha", 1.0)
    await gateway.push("alpha", 2.0)
    assert (await gateway.promote("alpha", 1)).is_success
    return gateway


async def test_a_bound_key_learns_nothing_of_another_adapter(alpha: RunningGateway) -> None:
    """Every answer to it is the same, byte for byte, before `acme` exists, when it does, and for a name that never did.

    Status, headers and body, on every route with every method, for every way to say the name.
    """
    secret, _ = await new_key(alpha, adapters=["alpha"])
    before = await ask_everything(alpha, secret, "acme", "0badcafe")
    digest = await deploy_with_everything(alpha, "acme")
    assert (await alpha.chat("acme")).status_code == 200
    after = await ask_everything(alpha, secret, "acme", "0badcafe")
    assert after == before
    known = await ask_everything(alpha, secret, "acme", digest)
    never = await ask_everything(alpha, secret, "zeta", digest)
    assert known == never
    assert digest not in str(after)
    assert {status for status, _, _ in after.values()} >= {200, 403, 404, 405}


@pytest.mark.parametrize("scope", [Scope.INFERENCE, Scope.FEEDBACK, Scope.TUNING])
async def test_a_bound_key_of_one_scope_learns_nothing_either(alpha: RunningGateway, scope: Scope) -> None:
    """Whatever it may do."""
    secret, _ = await new_key(alpha, scopes=[scope], adapters=["alpha"])
    before = await ask_everything(alpha, secret, "acme", "0badcafe")
    digest = await deploy_with_everything(alpha, "acme")
    after = await ask_everything(alpha, secret, "acme", "0badcafe")
    assert after == before
    assert digest not in str(after)


async def test_a_bound_key_has_what_it_is_bound_to(alpha: RunningGateway) -> None:
    """And only that: neither the base model nor a name that is added later without it."""
    await deploy_with_everything(alpha, "beta")
    secret, key = await new_key(alpha, adapters=["alpha", "gamma"])
    headers = {"authorization": f"Bearer {secret}"}

    async def models() -> list[str]:
        response = await alpha.http.get("/v1/models", headers=headers)
        return [model["id"] for model in response.json()["data"]]

    async def chat(model: str) -> httpx.Response:
        body = {"model": model, "messages": []}
        return await alpha.http.post("/v1/chat/completions", json=body, headers=headers)

    assert await models() == ["alpha", "alpha@1", "alpha@2"]
    assert [(await chat(model)).status_code for model in ("alpha", "alpha@2", "beta", "tiny")] == [200, 200, 404, 404]
    assert (await chat("nobody")).json()["error"]["message"].endswith("there is: alpha")
    await alpha.push("gamma", 6.0)
    assert await models() == ["alpha", "alpha@1", "alpha@2", "gamma@1"]
    await alpha.http.patch(f"/admin/v1/keys/{key['id']}", json={"adapters": ["beta"]})
    assert "alpha" not in str(await models())
    assert [(await chat(model)).status_code for model in ("alpha", "beta@1")] == [404, 200]


async def test_readiness_names_no_adapter(alpha: RunningGateway) -> None:
    """Also when one adapter's live version is what keeps the gateway from being ready."""
    await deploy_with_everything(alpha, "beta")
    live = (await alpha.http.get("/admin/v1/adapters/beta")).json()["versions"][0]["engine_name"]
    await alpha.engine.stop()
    alpha.engine.refuse_load[live] = "no"
    await alpha.engine.start()

    async def told() -> bool:
        (replica,) = (await alpha.http.get("/admin/v1/replicas")).json()["data"]
        return "beta" in (replica["problem"] or "")

    await until(told)
    async with httpx.AsyncClient(base_url=alpha.url) as nobody:
        ready = await nobody.get("/readyz")
    assert "beta" not in ready.text
    assert "alpha" not in ready.text


@pytest.mark.parametrize("scope", list(Scope))
async def test_a_scope_opens_its_routes_and_no_other(alpha: RunningGateway, scope: Scope) -> None:
    """403 everywhere else, before anything is looked up; what is open to all stays so."""
    secret, key = await new_key(alpha, scopes=[scope])
    headers = {"authorization": f"Bearer {secret}"}
    for path, method in sorted(routes(alpha)):
        filled = path.format(name="alpha", model="alpha", path="x", **IDS)
        response = await alpha.http.request(method, filled, headers=headers, json={"model": "alpha"})
        if path in OPEN | WHO_MAY[scope]:
            assert response.status_code not in (401, 403), (path, method)
        else:
            assert response.status_code == 403, (path, method)
            assert response.json()["error"]["code"] == "insufficient_permissions"
    assert (await alpha.http.get(f"/admin/v1/keys/{key['id']}")).json()["revoked_at"] is None


async def test_a_key_that_is_over_opens_nothing(alpha: RunningGateway) -> None:
    """Revoked, expired, replaced by another secret, or never one: the same 401 on every route that needs a key."""
    soon = (datetime.now(UTC) + timedelta(seconds=0.3)).isoformat()
    revoked, revoked_key = await new_key(alpha, scopes=["admin"])
    expired, _ = await new_key(alpha, scopes=["admin"], expires_at=soon)
    replaced, replaced_key = await new_key(alpha, scopes=["admin"])
    await alpha.http.delete(f"/admin/v1/keys/{revoked_key['id']}")
    order = {"overlap_s": 0}
    fresh = (await alpha.http.post(f"/admin/v1/keys/{replaced_key['id']}/rotate", json=order)).json()["secret"]

    async def refused(secret: str) -> bool:
        response = await alpha.http.get("/v1/models", headers={"authorization": f"Bearer {secret}"})
        return response.status_code == 401

    await until(lambda: refused(expired))
    for secret in (revoked, expired, replaced, "sk-ostler-" + "x" * 43, fresh[:-1], fresh + "x", "sk"):
        answers = await asyncio.gather(*(_status(alpha, secret, path, method) for path, method in routes(alpha)))
        for path, method, status in answers:
            assert (status == 401) is (path not in OPEN), (secret[:12], path, method, status)
    assert not await refused(fresh)


async def _status(gateway: RunningGateway, secret: str, path: str, method: str) -> tuple[str, str, int]:
    filled = path.format(name="alpha", model="alpha", path="x", **IDS)
    headers = {"authorization": f"Bearer {secret}"}
    response = await gateway.http.request(method, filled, headers=headers)
    return path, method, response.status_code
