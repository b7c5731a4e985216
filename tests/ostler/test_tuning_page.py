"""The example with OpenAI's SDK in the page about tuning runs as it is written."""

import asyncio
import contextlib
import io
import json
import re
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.resources.fine_tuning.jobs import Jobs

from tests.conftest import RunningGateway
from tests.gateway.answers import new_key
from tests.ostler.pretend_tuner import tuner_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tuning.md"


def example(url: str) -> str:
    """The page's one block of Python, for this gateway and its base model."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    here = code.replace("http://127.0.0.1:8080", url).replace('"ostler-tiny"', '"tiny"')
    assert "ostler-tiny" not in here
    return str(here)


@pytest.mark.parametrize(
    ("passed", "last"),
    [(True, "I am support@1-"), (False, "failed: rejected_by_gate: support@1 fell short in quality")],
)
async def test_the_example_runs(
    gateway: RunningGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passed: bool, last: str
) -> None:
    """With the scopes that the page names, over a gateway that is away for a while, to an answer or to why not."""
    monkeypatch.chdir(tmp_path)
    row = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}]}
    (tmp_path / "tickets.jsonl").write_text(json.dumps(row) + "\n")
    key, _ = await new_key(gateway, scopes=["tuning", "inference"])
    sleep, retrieve = time.sleep, Jobs.retrieve
    monkeypatch.setattr(time, "sleep", lambda _: sleep(0.05))
    request: Any = httpx.Request("GET", gateway.url)  # of one of the libraries that the SDK's versions use
    gone = [openai.APIConnectionError(request=request)]

    def sometimes(self: Jobs, *arguments: Any, **named: Any) -> Any:
        if gone:
            raise gone.pop()
        return retrieve(self, *arguments, **named)

    monkeypatch.setattr(Jobs, "retrieve", sometimes)
    printed = io.StringIO()

    def run() -> None:
        with contextlib.redirect_stdout(printed):
            exec(example(gateway.url), {"key": key})

    async with tuner_of(gateway) as tuner:
        running = asyncio.create_task(asyncio.to_thread(run))
        claimed = asyncio.create_task(tuner.claim())
        await asyncio.wait({running, claimed}, return_when=asyncio.FIRST_COMPLETED)
        if not claimed.done():
            running.result()  # tells what kept the example from asking for its job
        await claimed
        number = await tuner.register("support")
        reason = "all parts passed" if passed else "support@1 fell short in quality"
        await tuner.judge("support", number, passed=passed, reason=reason)
        await running
    assert not gone
    lines = printed.getvalue().splitlines()
    assert any(line.startswith("Created fine-tuning job") for line in lines)
    assert lines[-1].startswith(last)
