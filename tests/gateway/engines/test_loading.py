"""Loading a version: whose fault it is where that fails, at whatever moment."""

from typing import Any, cast

import aiohttp
import pytest

from gateway.engines.engine import Engine
from gateway.engines.failures import EngineDown, EngineLate, EngineRefused, EngineStopping
from gateway.engines.loading import Loader
from gateway.engines.managing import DirectManager, Fetched
from gateway.errors import VersionNotServable
from registry.catalog import Version
from tests.conftest import RunningGateway
from tests.fakes.engine import FakeEngine

NAME = "support@1-0a0a0a0a"


class Stage:
    """Engine, manager and prover in one: each fails as it is told to."""

    base = "tiny"

    def __init__(self) -> None:
        self.fails_at: dict[str, Exception] = {}
        self.asked: list[str] = []
        self.downs = 0
        self.proofs: list[float] = []
        """How long each took that came."""

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if what in self.fails_at:
            raise self.fails_at[what]

    async def models(self) -> dict[str, str]:
        """What the engine has."""
        self._ask("models")
        return {}

    async def probe(self, model: str, _timeout_s: float) -> None:
        """Have the base answer."""
        assert model == self.base
        self._ask("base")

    async def fetch(self, version: Version) -> Fetched:
        """Its files."""
        self._ask("fetch")
        return Fetched(version, None)

    async def load(self, _fetched: Fetched, _timeout_s: float) -> bool:
        """Load it."""
        self._ask("load")
        return True

    async def unload(self, _name: str) -> None:
        """Unload it."""
        self._ask("unload")

    async def prove(self, *_: object) -> None:
        """Prove it."""
        self._ask("proof")

    def down(self) -> None:
        """Hear that not even the base answers."""
        self.downs += 1

    async def outcome(self) -> str:
        """What loading comes to, in a word."""
        stage: Any = self

        async def make_room() -> None:
            self._ask("room")

        loader = Loader("engine-0", stage, stage, stage, timeout_s=5.0, on_proven=self.proofs.append, on_down=self.down)
        version = cast(Version, type("V", (), {"engine_name": NAME, "digest": "0" * 64}))
        try:
            await loader.load(version, make_room)
        except EngineDown as down:
            return "broke" if down.sent else "down"
        except VersionNotServable:
            return "refused"
        return "loaded"


@pytest.fixture
def stage() -> Stage:
    """All goes well."""
    return Stage()


async def test_it_is_loaded_once_its_files_are_there(stage: Stage) -> None:
    """And only then does another one leave for it."""
    assert await stage.outcome() == "loaded"
    assert stage.asked == ["models", "fetch", "room", "load", "proof"]
    assert len(stage.proofs) == 1


@pytest.mark.parametrize(
    ("moment", "failure", "with_base", "without_base"),
    [
        ("models", EngineLate(), "down", "down"),
        ("models", EngineDown(sent=True), "down", "down"),
        ("models", EngineRefused(503, "busy"), "refused", "down"),
        ("fetch", EngineRefused(503, "its agent does not answer"), "refused", "down"),
        ("load", EngineLate(), "refused", "broke"),
        ("load", EngineDown(sent=True), "broke", "broke"),
        ("load", EngineDown(sent=False), "down", "down"),
        ("load", EngineRefused(500, "CUDA error"), "refused", "broke"),
        ("load", EngineRefused(400, "the rank is too large"), "refused", "refused"),
        ("load", EngineStopping(500), "refused", "down"),
        ("proof", EngineLate(), "refused", "broke"),
        ("proof", EngineRefused(500, "CUDA error"), "refused", "broke"),
    ],
)
async def test_a_version_breaks_an_engine_only_if_it_was_asked_for(
    stage: Stage, moment: str, failure: Exception, with_base: str, without_base: str
) -> None:
    """And if the base fails, too, where it was slow or refused; an engine without its base is told of."""
    stage.fails_at[moment] = failure
    assert (await stage.outcome(), stage.downs) == (with_base, 0)
    stage.asked.clear()
    stage.fails_at["base"] = EngineDown(sent=True)
    assert await stage.outcome() == without_base
    assert stage.downs == stage.asked.count("base")


async def test_what_is_slow_may_stay_and_what_does_not_act_may_not(stage: Stage) -> None:
    """The slow one proves itself later."""
    stage.fails_at["proof"] = EngineLate()
    assert await stage.outcome() == "refused"
    assert "unload" not in stage.asked
    stage.fails_at["proof"] = EngineRefused(422, "it answers as the base model does")
    assert await stage.outcome() == "refused"
    assert stage.asked[-1] == "unload"


async def test_an_engine_that_ends_by_a_load_was_asked_for_it(fake_engine: FakeEngine, two: RunningGateway) -> None:
    """It says so, and ends; that its list is not to be had any more says nothing of what was sent before."""
    version = two.app.state.directory.catalog.version(next(iter(two.engine.loaded)))
    fake_engine.break_load.add(version.engine_name)
    async with aiohttp.ClientSession() as session:
        engine = Engine(fake_engine.url, "tiny", session)

        async def gone() -> dict[str, str]:
            raise EngineDown(sent=False)

        engine.models = gone  # type: ignore[method-assign]
        manager = DirectManager(engine, cast(Any, None))
        with pytest.raises(EngineRefused, match="illegal memory access"):
            await manager.load(Fetched(version, None), 5.0)


async def test_what_takes_too_long_is_told_from_what_broke_off(fake_engine: FakeEngine) -> None:
    """The engine may do it all the same."""
    fake_engine.load_s = 0.3
    async with aiohttp.ClientSession() as session:
        with pytest.raises(EngineLate):
            await Engine(fake_engine.url, "tiny", session).load(NAME, "/adapter", 0.05)
