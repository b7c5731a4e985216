"""Any sequence of changes, crashes and restarts leaves what some serial order of the completed calls explains.

A crash is an error or a cancellation at any statement or commit. The call it hit happened wholly or not at all.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from registry.artifacts import Artifact, ArtifactStore
from registry.catalog import Adapter, Canary, Deployment, Shadow
from registry.database import connect, migrate
from registry.deployments import UNSET, Patch
from registry.errors import NotFound, RegistryError
from registry.lora import CheckedAdapter
from registry.mapping import to_state
from registry.registry import Registry
from registry.tables import AdapterRow, RevisionRow
from tests.registry.deployment_model import Archive, Call, Change, Halt, Model, Register, Revision, Rollback
from tests.registry.faults import Crash, Fault, Faults
from tests.registry.lora_samples import BASE, RANK

NAME = "support"
ACTS = update(AdapterRow).values(policy={"number": 1, "mode": "act"})
CHECKED = CheckedAdapter(RANK, 8.0, False, ("q_proj",), 1, "F32", (), {})  # noqa: FBT003
numbers = st.integers(1, 5)
shares = st.sampled_from([0.0, 0.1, 0.5])
patches = st.builds(
    Patch,
    stable=st.just(UNSET) | numbers,
    canary=st.just(UNSET) | st.none() | st.builds(Canary, numbers, shares, st.booleans()),
    shadow=st.just(UNSET) | st.none() | st.builds(Shadow, st.none() | numbers, shares),
    fallback=st.sampled_from([UNSET, (), ("previous",), ("base",), ("previous", "base")]),
)
promotions = st.builds(
    Patch, stable=numbers, canary=st.builds(Canary, st.integers(1, 3), shares, holdback=st.sampled_from([True]))
)
expected = st.none() | st.none() | st.integers(0, 8)
decisions = st.none() | st.none() | st.integers(1, 3)
calls: st.SearchStrategy[Call] = st.one_of(
    st.builds(Register, st.uuids().map(lambda made: made.hex * 2)),
    st.builds(Change, st.builds(Patch, stable=numbers)),
    st.builds(Change, patches, expected, decisions),
    st.builds(Change, promotions, st.none(), decisions),
    st.builds(Rollback, st.none(), expected, decisions),
    st.builds(Rollback, st.integers(1, 12)),
    st.builds(Archive, numbers, st.booleans()),
    st.builds(Halt, st.sampled_from([NAME, ""]), st.sampled_from([True, False, False])),
)


faults = st.builds(Fault, st.integers(1, 14), st.booleans())
CRASHED = (Crash, asyncio.CancelledError)


async def play(registry: Registry, call: Call) -> object:
    """Make a call; what its caller gets, as the model has it."""
    try:
        return await _play(registry, call)
    except RegistryError as error:
        return type(error)
    except CRASHED:
        return Crash


async def _play(registry: Registry, call: Call) -> object:
    match call:
        case Register(digest):
            artifact = Artifact(digest, 1)
            async with registry._change("ann") as change:
                pushed = await registry._register(
                    change, NAME, BASE, CHECKED, artifact, note="", lineage=None, verdict=None
                )
                await change.session.exec(ACTS)
            return pushed.version.number
        case Change(patch, seen, decision):
            changed = await registry.change(NAME, patch, expected_revision=seen, decision=decision, actor="ann")
            return cold(changed.deployment)
        case Rollback(to, seen, decision):
            changed = await registry.rollback(NAME, to=to, expected_revision=seen, decision=decision, actor="ann")
            return cold(changed.deployment)
        case Halt(name, stopped):
            if stopped:
                await registry.stop(name or None, actor="ann", reason="look")
            else:
                await registry.go_on(name or None, actor="ann")
            return None
        case Archive(number, archived):
            return (await registry.archive_version(NAME, number, archived=archived, actor="ann")).archived


def cold(deployment: Deployment | None) -> Deployment | None:
    """A deployment without what stays warm, which the model leaves out."""
    return replace(deployment, warm=frozenset()) if deployment else None


def explanations(model: Model, made: list[tuple[Call, object]]) -> Iterator[Model]:
    """The models after each serial order of the completed calls, and any of the broken ones, that gives the answers."""
    broken = [index for index, (_, answer) in enumerate(made) if answer is Crash]
    whole = [index for index in range(len(made)) if index not in broken]
    for kept in (some for size in range(len(broken) + 1) for some in combinations(broken, size)):
        for order in permutations([*whole, *kept]):
            after, explains = model, True
            for index in order:
                call, answer = made[index]
                after, due = call.on(after)
                explains = explains and answer in (due, Crash)
            if explains:
                yield after


class Lifecycle(RuleBasedStateMachine):
    """One adapter on SQLite, beside its model."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=self.template.parent))
        self.runner = asyncio.Runner()
        self.model = Model()
        self.rows: list[dict[str, Any]] = []

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run in the machine's own event loop."""
        return self.runner.run(coroutine)

    @initialize()
    def begin(self) -> None:
        """An empty database."""
        shutil.copy(self.template, self.folder / "ostler.db")
        self.open()

    def open(self) -> None:
        """Connect, as a process that starts."""
        self.engine = connect(f"sqlite:///{self.folder / 'ostler.db'}")
        self.faults = Faults(self.engine)
        self.registry = Registry(self.engine, ArtifactStore(str(self.folder), self.folder), (BASE,))

    def make(self, made: list[Call], fault: Fault | None = None) -> None:
        """Make calls at once, and find what explains the outcome."""

        async def at_once() -> list[object]:
            return list(await asyncio.gather(*(play(self.registry, call) for call in made)))

        self.faults.now = fault
        answers = self.run(at_once())
        self.faults.now = None
        seen = self.run(self.observe())
        possible = list(explanations(self.model, list(zip(made, answers, strict=True))))
        fitting = [model for model in possible if model == seen]
        assert fitting, f"{seen} after {made} with {answers} is none of {possible}"
        self.model = fitting[0]

    @rule(call=calls)
    def one_call(self, call: Call) -> None:
        """A call by itself."""
        self.make([call])

    @rule(first=calls, second=calls)
    def two_calls_at_once(self, first: Call, second: Call) -> None:
        """Two that race."""
        self.make([first, second])

    @rule(call=calls, fault=faults)
    def a_call_that_breaks(self, call: Call, fault: Fault) -> None:
        """A call that is broken off somewhere."""
        self.make([call], fault)

    @rule(first=calls, second=calls, fault=faults)
    def one_of_two_breaks(self, first: Call, second: Call, fault: Fault) -> None:
        """A race in which one is broken off."""
        self.make([first, second], fault)

    @rule()
    def restart(self) -> None:
        """The process ends, and another one opens the same file."""
        self.run(self.engine.dispose())
        self.open()

    async def observe(self) -> Model:
        """What the database says, in the model's terms; its history must go on from where it was."""
        adapter = (await self.registry.catalog()).adapters.get(NAME)
        rows = await self.history()
        versions = adapter.versions.values() if adapter else ()
        assert [version.number for version in versions] == list(range(1, len(versions) + 1))
        assert [row.number for row in rows] == list(range(1, len(rows) + 1)), "a gap in history"
        plain = [row.model_dump() for row in rows]
        assert plain[: len(self.rows)] == self.rows, "history was rewritten"
        self.rows = plain
        changes = await self.registry.change_number()
        audited = {row.change for row in await self.registry.audit(limit=10_000)}
        assert audited == set(range(1, changes + 1)), "a change without its audit entry"
        return Model(
            archived=tuple(version.archived for version in versions),
            history=tuple(Revision(to_state(row), row.restores, row.decision) for row in rows),
            changes=changes,
            stopped=frozenset(await self.registry.stops()),
        )

    async def history(self) -> list[RevisionRow]:
        """All revisions, oldest first."""
        try:
            return (await self.registry.history(NAME, limit=10_000))[::-1]
        except NotFound:
            return []

    @invariant()
    def the_catalog_agrees(self) -> None:
        """What is live is what the model says, and leads to no version that is missing or archived."""
        if not hasattr(self, "registry"):
            return
        adapter: Adapter | None = self.run(self.registry.catalog()).adapters.get(NAME)
        deployment = adapter.deployment if adapter else None
        assert cold(deployment) == self.model.deployment
        if adapter and deployment:
            assert not any(adapter.versions[number].archived for number in self.model.needed)
            assert deployment.warm <= adapter.versions.keys()
            assert not deployment.warm & deployment.versions

    def teardown(self) -> None:
        """At the end each revision can be restored."""
        if hasattr(self, "registry"):
            for number in range(1, len(self.model.history) + 1):
                self.make([Rollback(to=number)])
                assert self.model.history[-1].state == self.model.history[number - 1].state
            self.run(self.engine.dispose())
        self.runner.close()
        shutil.rmtree(self.folder)


async def _migrate(engine: AsyncEngine) -> None:
    await migrate(engine)
    await engine.dispose()


def test_the_lifecycle_of_a_deployment(tmp_path: Path) -> None:
    """Whatever is called, raced and broken, one serial order explains it, and the history is unbroken."""
    template = tmp_path / "template.db"
    asyncio.run(_migrate(connect(f"sqlite:///{template}")))

    class Machine(Lifecycle):
        """The machine with its template."""

    Machine.template = template
    machine = Machine.TestCase
    machine.settings = settings(
        max_examples=15,
        stateful_step_count=25,
        deadline=None,
        phases=(Phase.generate,),  # what races is not the same twice, so a failure cannot be made smaller
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    machine().runTest()
