"""The gateway as the monitor calls it: like anyone else, with its traffic marked so that it is counted apart."""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any, BinaryIO, Self

import httpx

PURPOSE_HEADER = "x-ostler-purpose"
EVALUATION = "evaluation"
_TIMEOUT = httpx.Timeout(300.0, connect=10.0)


class GatewayRefused(Exception):
    """The gateway, or another OpenAI-compatible endpoint, did not answer as asked. The message has no prompt in it.

    Attributes:
        status: its HTTP status; None if there was no answer.
        code: the error's stable word, where the answer has one.
        said: the error's own message, for people, where the answer has one.
    """

    def __init__(
        self, message: str, status: int | None = None, *, code: str | None = None, said: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.said = said


class GatewayClient:
    """An OpenAI-compatible endpoint, called at most `concurrency` times at once.

    Args:
        url: its address, without ``/v1``.
        key: the API key.
        purpose: what its requests are for, as the gateway counts them; empty for endpoints that are not ours.
        transport: in place of the network.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        concurrency: int,
        purpose: str = EVALUATION,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        if purpose:
            headers[PURPOSE_HEADER] = purpose
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=_TIMEOUT, transport=transport)
        self._places = asyncio.Semaphore(concurrency)

    async def __aenter__(self) -> Self:
        """Use it in a block."""
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def chat(self, model: str, messages: list[Mapping[str, Any]], **fields: Any) -> dict[str, Any]:
        """One chat completion; `fields` are further fields of its body.

        Raises:
            GatewayRefused
        """
        return await self.post("/v1/chat/completions", {"model": model, "messages": messages, **fields})

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """One call with a JSON body; the answer's JSON object.

        Raises:
            GatewayRefused
        """
        async with self._places:
            return await self._call("POST", path, json=body)

    async def admin(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """One call of an admin's, which waits for no evaluation; the answer's JSON object.

        Raises:
            GatewayRefused: with the code and the message of the answer's error.
        """
        return await self._call(method, path, json=body, headers=headers)

    async def upload(self, filename: str, content: bytes | BinaryIO, **fields: str) -> dict[str, Any]:
        """Send a file, with further fields of the form such as `purpose`; what the endpoint says of it.

        Raises:
            GatewayRefused: with the code and the message of the answer's error.
        """
        files = {"file": (filename, content, "application/jsonl")}
        return await self._call("POST", "/v1/files", data=fields, files=files)

    async def download(self, file_id: str) -> bytes:
        """A file's content.

        Raises:
            GatewayRefused
        """
        return (await self._answer("GET", f"/v1/files/{file_id}/content")).content

    async def get(self, path: str, **params: Any) -> dict[str, Any]:
        """One call without a body; the answer's JSON object.

        Raises:
            GatewayRefused
        """
        return await self._call("GET", path, params=params)

    async def _answer(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = await self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise GatewayRefused(f"{path} did not answer ({type(error).__name__})") from error
        if response.is_error:
            code, said = _said(response)
            raise GatewayRefused(f"{path} answered {response.status_code}", response.status_code, code=code, said=said)
        return response

    async def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        response = await self._answer(method, path, **arguments)
        try:
            found = response.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise GatewayRefused(f"{path} did not answer with a JSON object", response.status_code)
        return found


def _said(response: httpx.Response) -> tuple[str | None, str | None]:
    """The code and the message of OpenAI's error envelope; None where it is none."""
    try:
        error = response.json()["error"]
        found = error.get("code"), error.get("message")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, None
    code, said = (each if isinstance(each, str) else None for each in found)
    return code, said


def answer_text(completion: Mapping[str, Any]) -> str | None:
    """The text of a chat completion's first choice; None if it has none, as with a call of a tool."""
    try:
        text = completion["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return None
    return text if isinstance(text, str) else None
