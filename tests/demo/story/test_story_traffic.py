"""The story's traffic, through the SDK and a real gateway before a fake engine."""

import time
from dataclasses import replace

from demo.story.ledger import Ledger
from demo.story.plan import KEYS, Plan
from demo.story.traffic import Traffic
from tests.conftest import RunningGateway, until

PLAN = replace(Plan(), before_pace=50.0, pace=50.0, feedback_after_s=(1.6, 2.2))


async def secrets_of(gateway: RunningGateway) -> dict[str, str]:
    """A key for each channel, with what the story asks for."""
    secrets = {}
    for name in KEYS:
        order = {"name": name, "scopes": ["inference", "feedback"], "adapters": ["support"]}
        secrets[name] = (await gateway.http.post("/admin/v1/keys", json=order)).json()["secret"]
    return secrets


async def test_every_ticket_is_answered_and_closed(gateway: RunningGateway) -> None:
    """From all keys, each in a session of its own; the desk's word on each arrives, with what was right."""
    await gateway.push("support", 1.0)
    await gateway.promote("support", 1)
    ledger = Ledger()
    async with Traffic(gateway.url, await secrets_of(gateway), PLAN, ledger, time.monotonic()) as traffic:
        await until(lambda: len(ledger.answers) >= 20, 20)
        traffic.world = "shifted"
        before = len(ledger.answers)
        await until(lambda: len(ledger.answers) >= before + PLAN.at_once + 10, 20)
        assert traffic.broken is None
    assert ledger.failures == []
    assert ledger.said == len(ledger.answers)
    assert {each.key for each in ledger.answers} == set(KEYS)
    assert {(each.version, each.variant) for each in ledger.answers} == {(1, "stable")}
    assert {each.world for each in ledger.answers} == {"before", "shifted"}
    page = (await gateway.http.get("/admin/v1/feedback", params={"limit": 1000})).json()["data"]
    assert len(page) == ledger.said
    assert all(each["thumb"] == "down" and '"intent"' in each["correction"] for each in page)
    params: dict[str, str | int] = {"adapter": "support", "limit": 1000}
    log = (await gateway.http.get("/admin/v1/requests", params=params)).json()["data"]
    sessions = [each["session"] for each in log]
    assert None not in sessions
    assert len(set(sessions)) == len(sessions) == len(ledger.answers)


async def test_what_fails_is_counted_and_not_tried_again(gateway: RunningGateway) -> None:
    """One failed request is one failure, and the traffic goes on."""
    version = await gateway.push("support", 1.0)
    await gateway.promote("support", 1)
    ledger = Ledger()
    async with Traffic(gateway.url, await secrets_of(gateway), PLAN, ledger, time.monotonic()):
        await until(lambda: len(ledger.answers) >= 3, 20)
        gateway.engine.fail_next.append(version["engine_name"])
        await until(lambda: ledger.failures, 20)
        seen = len(ledger.answers)
        await until(lambda: len(ledger.answers) >= seen + 3, 20)
    (failure,) = ledger.failures
    assert failure.what == "answer"
    assert failure.how
    assert ledger.said == len(ledger.answers)
