"""What tests of fine-tuning jobs ask a gateway."""

from typing import Any

import httpx

from tests.conftest import RunningGateway

JOBS = "/v1/fine_tuning/jobs"
ROWS = b'{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}\n'


async def sent(gateway: RunningGateway, purpose: str = "fine-tune", secret: str | None = None) -> str:
    """The id of a file that was just uploaded."""
    response = await gateway.http.post(
        "/v1/files", data={"purpose": purpose}, files={"file": ("a.jsonl", ROWS)}, headers=bearer(secret)
    )
    assert response.status_code == 200, response.text
    file_id: str = response.json()["id"]
    return file_id


async def create(
    gateway: RunningGateway, body: dict[str, Any], secret: str | None = None, **headers: str
) -> httpx.Response:
    """Ask for a job; the training file is uploaded first if the body names none."""
    file_id = body.get("training_file") or await sent(gateway, secret=secret)
    body = {"model": "tiny", "training_file": file_id} | body
    return await gateway.http.post(JOBS, json=body, headers=bearer(secret) | headers)


async def created(
    gateway: RunningGateway, body: dict[str, Any] | None = None, secret: str | None = None
) -> dict[str, Any]:
    """A new job; of the adapter `support` if the body does not say."""
    response = await create(gateway, {"ostler": {"adapter": "support"}} | (body or {}), secret)
    assert response.status_code == 200, response.text
    job: dict[str, Any] = response.json()
    return job


def bearer(secret: str | None) -> dict[str, str]:
    """The header of another key; none is the gateway's own."""
    return {} if secret is None else {"authorization": f"Bearer {secret}"}
