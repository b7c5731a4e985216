"""What survives `kill -9`: of the engine under load, of `ostler up`, and in a push. Runs last, as it kills things."""

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

import demo
from tests.conftest import tar_of
from tests.engine.conftest import Up

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

MESSAGES = [{"role": "user", "content": demo.EXAMPLE_MESSAGE}]
DEADLINE_S = 40.0
RECOVERED_WITHIN_S = 240.0


def wait_until(holds: Callable[[], Any], seconds: float) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.1)


def ask(up: Up, model: str, timeout: float = 90.0) -> httpx.Response:
    """One short request."""
    headers = {"authorization": f"Bearer {up.key}"}
    body = {"model": model, "messages": MESSAGES, "max_tokens": 8, "temperature": 0}
    return httpx.post(up.url + "/v1/chat/completions", json=body, headers=headers, timeout=timeout)


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all have ended."""
    return not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("victim", ["vllm.entrypoints.openai.api_server", "EngineCore"])
def test_a_killed_engine_comes_back_under_load(up: Up, victim: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Requests meanwhile get 503 in the envelope or succeed late, none hangs, and the adapters answer again."""
    over = threading.Event()
    seen: list[tuple[int, float, str]] = []

    def client(number: int) -> None:
        while not over.is_set():
            began = time.monotonic()
            response = ask(up, ("support", "support@1", demo.BASE_NAME)[number % 3])
            seen.append((response.status_code, time.monotonic() - began, response.text))
            if response.status_code != 200:
                time.sleep(min(float(response.headers.get("retry-after", 1)), 1.0))

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client, number) for number in range(8)]
        try:
            wait_until(lambda: len(seen) > 20, 60)
            (engine,) = up.running(victim)[:1]
            engine.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            wait_until(lambda: httpx.get(up.url + "/readyz").status_code == 503, 30)
            up.wait_ready()
            back = time.monotonic() - killed
            enough = len(seen) + 30
            wait_until(lambda: len(seen) > enough, 60)
        finally:
            over.set()
        for outcome in clients:
            outcome.result()
    with capsys.disabled():
        late = max(seconds for _, seconds, _ in seen)
        refused = sum(status != 200 for status, _, _ in seen)
        print(f"\nkill -9 of {victim}: ready again after {back:.1f} s, {refused} of {len(seen)} refused")
        print(f"the slowest answer took {late:.1f} s")
    assert {status for status, _, _ in seen} <= {200, 503}
    for status, _, text in seen:
        if status != 200:
            assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}
    assert max(seconds for _, seconds, _ in seen) < DEADLINE_S
    assert all(status == 200 for status, _, _ in seen[-8:])


def test_a_cut_off_push_leaves_nothing_that_can_be_promoted(up: Up) -> None:
    """Neither a version nor a file."""
    content = tar_of(demo.ADAPTERS[0].folder)
    with up.http() as http:
        before = http.get("/admin/v1/adapters/support").json()["versions"]
        with socket.create_connection(("127.0.0.1", up.port)) as connection:
            head = (
                "POST /admin/v1/adapters/half/versions HTTP/1.1\r\nhost: x\r\n"
                f"authorization: Bearer {up.key}\r\ncontent-length: {len(content)}\r\n\r\n"
            )
            connection.sendall(head.encode() + content[: len(content) // 2])
        uploads = up.folder / "cache" / "uploads"
        wait_until(lambda: not uploads.exists() or not list(uploads.iterdir()), 10)
        assert http.get("/admin/v1/adapters/support").json()["versions"] == before
        assert http.get("/admin/v1/adapters/half").status_code == 404
        assert http.patch("/admin/v1/adapters/half/deployment", json={"stable": 1}).status_code == 404


def test_killing_ostler_up_loses_nothing_and_leaves_no_process(up: Up) -> None:
    """In the middle of a push: deployments, history and keys are as before, and the half push is not to be seen."""
    with up.http() as http:
        made = http.post("/admin/v1/keys", json={"name": "kept"}).json()
        before = {path: http.get(path).json() for path in _PATHS}
    content = tar_of(demo.ADAPTERS[1].folder)
    with socket.create_connection(("127.0.0.1", up.port)) as connection:
        head = (
            "POST /admin/v1/adapters/half/versions HTTP/1.1\r\nhost: x\r\n"
            f"authorization: Bearer {up.key}\r\ncontent-length: {len(content)}\r\n\r\n"
        )
        connection.sendall(head.encode() + content[: len(content) // 2])
        family = up.family()
        assert len(family) > 4
        assert up.process is not None
        up.process.kill()
        up.process.wait()
        wait_until(lambda: gone(family), 30)
    assert list((up.folder / "cache" / "uploads").iterdir()) != [], "the push was not under way"
    up.start()
    assert list((up.folder / "cache" / "uploads").iterdir()) == []
    with up.http() as http:
        assert {path: http.get(path).json() for path in _PATHS} == before
        assert http.get("/admin/v1/adapters/half").status_code == 404
    client = {"authorization": f"Bearer {made['secret']}"}
    assert httpx.get(up.url + "/v1/models", headers=client).status_code == 200
    assert "sk-" not in up.output.rpartition("starting the engine")[2]


_PATHS = ("/admin/v1/adapters", "/admin/v1/adapters/support/history?limit=1000", "/admin/v1/keys")


def test_a_killed_gateway_comes_back(up: Up) -> None:
    """The engine runs on with its versions, so that it takes seconds."""
    (gateway,) = up.running("ostler gateway")
    gateway.send_signal(signal.SIGKILL)
    gateway.wait(10)
    up.wait_ready()
    assert ask(up, "support").status_code == 200


def test_a_stop_ends_every_process_within_seconds(up: Up) -> None:
    """SIGTERM ends gateway, engine and what the engine started."""
    family = up.family()
    began = time.monotonic()
    up.stop()
    assert time.monotonic() - began < 30
    assert gone(family)
    with contextlib.suppress(ProcessLookupError):
        os.kill(family[0].pid, 0)
        raise AssertionError("ostler up is still there")
