"""What the tests of the admin API read from its answers."""

from typing import Any

import httpx

from tests.conftest import RunningGateway


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The envelope's content; every refusal has one, with a request id."""
    error: dict[str, Any] = response.json()["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    assert response.headers["x-request-id"]
    assert response.headers["x-should-retry"] in ("true", "false")
    return error


async def adapters(gateway: RunningGateway) -> Any:
    """The list of adapters."""
    response = await gateway.http.get("/admin/v1/adapters")
    assert response.json().keys() == {"data", "has_more"}
    return response.json()["data"]


async def new_key(gateway: RunningGateway, **fields: Any) -> tuple[str, dict[str, Any]]:
    """A new key's secret and what lists show of it."""
    response = await gateway.http.post("/admin/v1/keys", json={"name": "team", **fields})
    assert response.status_code == 201, response.text
    assert response.json().keys() == {"secret", "key"}
    return response.json()["secret"], response.json()["key"]


async def stranger(
    gateway: RunningGateway, secret: str, method: str = "GET", path: str = "/v1/models", **arguments: Any
) -> httpx.Response:
    """A call with another key."""
    return await gateway.http.request(method, path, headers={"authorization": f"Bearer {secret}"}, **arguments)
