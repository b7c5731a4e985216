"""OpenAI's own SDK, in its present and its previous major version, as a client of the gateway."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RunningGateway
from tests.engine.conftest import Up
from tests.engine.sdk_checks import ENGINE_CHECKS

ROOT = Path(__file__).parents[2]
OLD_SDK = Path(sys.prefix, "openai-2")


class Sdk:
    """One version of the SDK, in a process that runs checks with it."""

    def __init__(self, major: int) -> None:
        paths = {2: {"PYTHONPATH": str(OLD_SDK)}, 3: {}}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PYTHONPATH"))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.engine.sdk_checks"],
            cwd=ROOT,
            env=kept | paths[major],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version: str = self._answer()["version"]
        assert self.version.startswith(f"{major}."), f"openai {self.version} instead of {major}: run `make test`"

    def assert_passes(self, name: str, url: str, key: str, engine_url: str = "") -> None:
        """Run one check; its failure is this test's."""
        assert self._process.stdin is not None
        order = {"check": name, "url": url, "key": key, "engine_url": engine_url}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        error = self._answer()["error"]
        assert error is None, f"with openai {self.version}:\n{error}"

    def stop(self) -> None:
        """End the process."""
        self._process.communicate(timeout=10)

    def _answer(self) -> dict[str, str]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process with the SDK ended"
        answer: dict[str, str] = json.loads(line)
        return answer


@pytest.fixture(scope="module", params=[2, 3], ids=["openai-2", "openai-3"])
def sdk(request: pytest.FixtureRequest) -> Iterator[Sdk]:
    """Each version in turn."""
    running = Sdk(request.param)
    yield running
    running.stop()


@pytest.fixture
async def faulty(gateway: RunningGateway) -> RunningGateway:
    """A gateway whose engine serves version 1 of `support` and refuses version 2."""
    await gateway.push("support", 1.0)
    refused = await gateway.push("support", 2.0)
    gateway.engine.refuse_load[refused["engine_name"]] = "No adapter found for {path}"
    assert (await gateway.promote("support", 1)).is_success
    return gateway


async def assert_passes(sdk: Sdk, gateway: RunningGateway, check: str) -> None:
    """Run a check in the SDK's process, while this one goes on serving."""
    await asyncio.to_thread(sdk.assert_passes, check, gateway.url, gateway.key)


@pytest.mark.engine
@pytest.mark.parametrize("check", ENGINE_CHECKS)
def test_the_sdk_works_on_the_real_engine(up: Up, sdk: Sdk, check: str) -> None:
    """What the check says: the SDK cannot tell the gateway from OpenAI, or from the engine behind it."""
    sdk.assert_passes(check, up.url, up.key, up.engine_url)


@pytest.mark.parametrize("check", ["conflict", "unprocessable", "forbidden", "version_unavailable"])
async def test_refusals_raise_the_sdks_own_errors(faulty: RunningGateway, sdk: Sdk, check: str) -> None:
    """The right class after the right number of requests: one where sending again is of no use, else three."""
    await assert_passes(sdk, faulty, check)


async def test_an_engine_that_is_down_is_tried_again(faulty: RunningGateway, sdk: Sdk) -> None:
    """The SDK's retries are not switched off for what may pass."""
    faulty.app.state.fleet.wait_s = 0.1
    await faulty.engine.stop()
    await assert_passes(sdk, faulty, "engine_down")


async def test_an_engine_that_fails_is_tried_again(faulty: RunningGateway, sdk: Sdk) -> None:
    """An engine's 500 is the gateway's 502, and the SDK tries again."""
    faulty.engine.refuse_requests.update(name for name in faulty.engine.loaded if name.startswith("support@1"))
    await assert_passes(sdk, faulty, "engine_fails")


async def test_a_broken_stream_raises(faulty: RunningGateway, sdk: Sdk) -> None:
    """The SDK reads the last event as the error that it is."""
    faulty.engine.break_after = 2
    await assert_passes(sdk, faulty, "broken_stream")
