"""Forms as clients send files in, and what they leave at the gateway."""

import httpx

from tests.conftest import RunningGateway

LIMIT = 1 << 20
ROWS = b'{"messages": [{"role": "user", "content": "hi"}]}\r\n--edge\r\n\r\n--edg'
FORM = {"content-type": "multipart/form-data; boundary=edge"}
ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"


def left(gateway: RunningGateway) -> list[str]:
    """What lies in the folder of uploads and in the artifact store; unfinished work counts, too."""
    cache, home = gateway.app.state.settings.cache, gateway.app.state.settings.home
    folders = (cache / "uploads", home / "artifacts/sha256", home / "artifacts/.staging")
    return [path.name for folder in folders for path in folder.glob("*")]


async def send(gateway: RunningGateway, content: bytes = ROWS, name: str = "a.jsonl", **fields: str) -> httpx.Response:
    """Upload a file as most clients do."""
    return await gateway.http.post("/v1/files", data={"purpose": "fine-tune"} | fields, files={"file": (name, content)})


async def sent(gateway: RunningGateway, content: bytes = ROWS, **fields: str) -> str:
    """The id of a file that was just uploaded."""
    response = await send(gateway, content, **fields)
    assert response.status_code == 200, response.text
    file_id: str = response.json()["id"]
    return file_id


def part(name: str, content: bytes, *, filename: str | None = None, more: str = "") -> bytes:
    """A part of a form whose boundary is `edge`."""
    named = "" if filename is None else f'; filename="{filename}"'
    return f'--edge\r\nContent-Disposition: form-data; name="{name}"{named}\r\n{more}\r\n'.encode() + content + b"\r\n"


FILE, PURPOSE = part("file", b"rows", filename="a.jsonl"), part("purpose", b"fine-tune")
END = b"--edge--\r\n"
