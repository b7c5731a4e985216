"""What stops automatic change: a pause of an adapter or a freeze of all, and what they leave to people."""

import asyncio

import pytest

from registry.catalog import Canary
from registry.deployments import Patch
from registry.errors import InvalidValue, NotFound, Stopped
from registry.policies import Mode, Policy
from registry.registry import Registry
from registry.stops import EVERYTHING
from tests.conftest import AdapterMaker

STEPS = 40
ACTS = Policy(mode="act")


@pytest.fixture
async def live(three: Registry, adapter_folder: AdapterMaker) -> Registry:
    """Two adapters in service, `support` with a canary to take back."""
    await three.push("billing", adapter_folder(1.0), actor="ann")
    for name in ("support", "billing"):
        await three.promote(name, 1, actor="ann")
        await three.change_policy(name, lambda _: ACTS, actor="ann")
    await three.change("support", Patch(canary=Canary(2, 0.1)), actor="ann")
    return three


async def act(registry: Registry, name: str, number: int) -> None:
    """An automatic change."""
    await registry.change(name, Patch(fallback=("base",) if number % 2 else ()), decision=number, actor="monitor")


@pytest.mark.parametrize(("stopped", "others"), [("support", False), (None, True)], ids=["paused", "frozen"])
async def test_nothing_automatic_changes_what_is_stopped(live: Registry, stopped: str | None, others: bool) -> None:
    """Neither a change nor a rollback, seen beforehand too; people change it still, and with the stop gone it goes."""
    await live.stop(stopped, actor="ann", reason="looks odd")
    history = await live.history("support")
    for refused in (
        live.change("support", Patch(stable=2), decision=1, actor="monitor"),
        live.rollback("support", decision=1, actor="monitor"),
        live.preview("support", Patch(stable=2), decision=1),
        live.preview_rollback("support", decision=1),
    ):
        with pytest.raises(Stopped, match=r"by ann \(looks odd\)"):
            await refused
    assert await live.history("support") == history
    if others:
        with pytest.raises(Stopped):
            await act(live, "billing", 1)
    else:
        await act(live, "billing", 1)
    await live.change("support", Patch(canary=Canary(2, 0.2)), actor="bob")
    await live.go_on(stopped, actor="bob")
    await live.rollback("support", decision=7, actor="monitor")
    newest, by_bob, *_ = await live.history("support")
    assert (newest.decision, by_bob.decision) == (7, None)
    assert (await live.audit(limit=1))[0].detail == {"reason": "", "restores": 1, "decision": 7, "forced": None}


@pytest.mark.parametrize("mode", ["off", "advise"])
async def test_a_mode_that_is_not_to_act_stops_it_at_once(live: Registry, mode: Mode) -> None:
    """Seen beforehand too; of that adapter alone, and not what people change."""
    await live.change_policy("support", lambda _: Policy(mode=mode), actor="ann")
    history = await live.history("support")
    for refused in (
        live.change("support", Patch(stable=2), decision=1, actor="monitor"),
        live.rollback("support", decision=1, actor="monitor"),
        live.preview("support", Patch(stable=2), decision=1),
        live.preview_rollback("support", decision=1),
    ):
        with pytest.raises(Stopped, match=f"is {mode}"):
            await refused
    assert await live.history("support") == history
    await act(live, "billing", 1)
    await live.rollback("support", actor="bob")


async def test_a_stop_is_one_however_often_it_is_said(live: Registry) -> None:
    """The first one stands, with who said it and why, in the audit log once; and its end is no other one's end."""
    first = await live.stop("support", actor="ann", reason="looks odd")
    assert await live.stop("support", actor="bob", reason="me too") == first
    frozen = await live.stop(None, actor="eve")
    assert await live.stops() == {"support": first, EVERYTHING: frozen}
    await live.go_on(None, actor="bob")
    await live.go_on(None, actor="bob")
    assert await live.stops() == {"support": first}
    with pytest.raises(Stopped):
        await act(live, "support", 1)
    await live.go_on("support", actor="bob", reason="all is well")
    entries = (await live.audit(limit=4))[::-1]
    assert [(entry.action, entry.subject, entry.actor) for entry in entries] == [
        ("pause", "adapter:support", "ann"),
        ("freeze", "adapters", "eve"),
        ("unfreeze", "adapters", "bob"),
        ("resume", "adapter:support", "bob"),
    ]
    assert entries[0].detail == {"reason": "looks odd"}


async def test_an_unknown_adapter_is_not_stopped(live: Registry) -> None:
    """Nor is a reason kept that no database could keep."""
    for refused in (live.stop("never", actor="ann"), live.go_on("never", actor="ann"), live.stop("", actor="ann")):
        with pytest.raises(NotFound):
            await refused
    with pytest.raises(InvalidValue):
        await live.stop("support", actor="ann", reason="\0")
    assert not await live.stops()


async def test_no_change_comes_after_the_stop_has_answered(live: Registry) -> None:
    """However they race: what is automatic is in the history before the stop, or not at all."""
    acting = [asyncio.create_task(act(live, "support", number)) for number in range(1, STEPS)]
    await asyncio.sleep(0)
    await live.stop(None, actor="ann")
    there = {row.number for row in await live.history("support", limit=1000)}
    outcomes = await asyncio.gather(*acting, return_exceptions=True)
    assert {row.number for row in await live.history("support", limit=1000)} == there
    assert all(outcome is None or isinstance(outcome, Stopped) for outcome in outcomes)
    with pytest.raises(Stopped):
        await act(live, "support", 1)
