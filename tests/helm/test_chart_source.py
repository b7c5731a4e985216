"""What is made of the chart's values and the settings is up to date, and `helm test`'s script says what is wrong."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from helm.source.files import FOLDER, rendered
from helm.source.values import explained

SCRIPT = FOLDER / "files" / "smoke.py"
KEY = "a-key-of-a-cluster-that-is-none"

Smoke = Callable[..., Awaitable[tuple[int, str]]]


@pytest.mark.parametrize("name", sorted(rendered()))
def test_writing_again_changes_nothing(name: str) -> None:
    """README and schema are those of today's values and settings; `python -m helm.source` writes them."""
    assert (FOLDER / name).read_text() == rendered()[name]


def test_comments_belong_to_the_value_below_them() -> None:
    """A comment of several lines is one explanation; a value without one has an empty one, not its neighbour's."""
    values = explained("a:\n  # First\n  # and second.\n  b: 1\n  c:\n    - x: 2\n# Third.\nd: {}\n")

    assert [(value.path, value.meaning) for value in values] == [
        ("a.b", "First and second."),
        ("a.c", ""),
        ("d", "Third."),
    ]


@pytest.fixture
async def gateway() -> AsyncIterator[tuple[str, dict[str, object]]]:
    """A gateway's address, and what its paths answer with; a number is a status."""
    answers: dict[str, object] = {
        "/readyz": {"status": "ok"},
        "/v1/models": {"data": [{"id": "small"}, {"id": "large"}]},
        "/v1/chat/completions": {"choices": [{}]},
    }

    async def answer(request: web.Request) -> web.Response:
        if request.headers["Authorization"] != f"Bearer {KEY}":
            return web.json_response({"error": {"message": "no such key"}}, status=401)
        found = answers[request.path]
        if isinstance(found, str):
            return web.Response(text=found, status=503)
        if isinstance(found, int):
            return web.json_response({"status": "not ready", "problems": ["no engine"]}, status=found)
        return web.json_response(found)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", answers
    await runner.cleanup()


async def smoke(url: str, *, key: str = KEY, models: tuple[str, ...] = ("small", "large")) -> tuple[int, str]:
    """The script's exit code and what it printed."""
    told = {
        "OSTLER_URL": url,
        "OSTLER_API_KEY": key,
        "SMOKE_MODELS": json.dumps(models),
        "SMOKE_CHAT": "true",
        "SMOKE_TIMEOUT_S": "0.1",
    }
    made = {**os.environ, **told}
    both = asyncio.subprocess.STDOUT
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-S", str(SCRIPT), env=made, stdout=asyncio.subprocess.PIPE, stderr=both, cwd=Path("/")
    )
    printed, _ = await process.communicate()
    return process.returncode or 0, printed.decode()


async def test_a_gateway_that_serves_passes(gateway: tuple[str, dict[str, object]]) -> None:
    """Ready, both base models listed, and each answers."""
    code, printed = await smoke(gateway[0])

    assert (code, printed) == (0, "the gateway is ready and lists 2 base models\n")


@pytest.mark.parametrize(
    ("path", "found", "said"),
    [
        ("/readyz", 503, "not ready: {"),
        ("/readyz", "upstream connect error", 'not ready: {"error": "upstream connect error"}'),
        ("/v1/models", {"data": [{"id": "small"}]}, "not listed: large"),
        ("/v1/chat/completions", {"choices": []}, "small did not answer (200)"),
    ],
)
async def test_a_gateway_that_does_not_serve_fails_with_the_reason(
    gateway: tuple[str, dict[str, object]], path: str, found: object, said: str
) -> None:
    """Whichever of the three it is, the last line of the log says which."""
    url, answers = gateway
    answers[path] = found

    code, printed = await smoke(url)

    assert code == 1
    assert said in printed.splitlines()[-1]


async def test_a_wrong_key_and_a_gateway_that_is_away_fail(gateway: tuple[str, dict[str, object]]) -> None:
    """Neither is a stack trace."""
    refused, away = await smoke(gateway[0], key="another"), await smoke("http://127.0.0.1:1")

    assert (refused[0], away[0]) == (1, 1)
    assert "no such key" in refused[1]
    assert "not ready" in away[1]
    assert "Traceback" not in away[1]
