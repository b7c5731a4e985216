"""What the agent's tests share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.settings import GIB, AgentSettings
from registry.artifacts import ArtifactStore
from tests.agent.agents import KIB, FlakyStore, RunningAgent, running
from tests.fakes.engine import FakeEngine


@pytest.fixture
def agent_settings(tmp_path: Path, fake_engine: FakeEngine, store: ArtifactStore) -> AgentSettings:
    """An agent of the fake engine, before the store in a folder, with room for three and a half small versions."""
    return AgentSettings(
        agent_engine_url=fake_engine.url,
        agent_cache=tmp_path / "agent",
        agent_cache_gib=350 * KIB / GIB,
        artifacts_url=str(store.folder),
    )


@pytest.fixture
async def agent(agent_settings: AgentSettings) -> AsyncIterator[RunningAgent]:
    """A running agent."""
    async with running(agent_settings) as found:
        yield found


@pytest.fixture
async def flaky(store: ArtifactStore) -> AsyncIterator[FlakyStore]:
    """The store of the fixture `store`, over HTTP."""
    assert store.folder is not None
    found = FlakyStore(store.folder)
    await found.start()
    yield found
    await found.stop()
