"""Quality on the real engine: an adapter meets traffic that it was not made for, and the monitor says so, in time."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from demo.evaluate import MAX_TOKENS
from demo.shifted import shifted
from demo.tickets import Ticket, held_out, score
from monitors.decisions import decisions
from monitors.tables import CaptureRow
from registry.database import connect
from tests.conftest import until
from tests.engine.conftest import Up

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

EACH = 500
AT_ONCE = 8
SHADOW_SHARE = 0.5
SCORER = "json_equality"
WATCHED = {
    "capture": 1.0,
    "scorers": [{"scorer": SCORER}],
    "quality": {"scorer": SCORER, "level": None, "level_observations": 200, "drop": 0.05, "alarm_every": 10_000},
}
UNWATCHED = {"capture": 0.0, "scorers": [], "quality": {"scorer": "feedback"}}


@asynccontextmanager
async def watched(up: Up) -> AsyncIterator[httpx.AsyncClient]:
    """An admin's client, while `support` is captured and the base model answers a share of its requests, too."""
    headers = {"authorization": f"Bearer {up.key}"}
    shadow: dict[str, Any] = {"shadow": {"version": "base", "share": SHADOW_SHARE}}
    async with httpx.AsyncClient(base_url=up.url, headers=headers, timeout=60) as http:
        for path, change in (("monitoring", WATCHED), ("deployment", shadow)):
            (await http.patch(f"/admin/v1/adapters/support/{path}", json=change)).raise_for_status()
        try:
            yield http
        finally:
            for path, change in (("monitoring", UNWATCHED), ("deployment", {"shadow": None})):
                (await http.patch(f"/admin/v1/adapters/support/{path}", json=change)).raise_for_status()


async def answer_all(http: httpx.AsyncClient, tickets: Sequence[Ticket]) -> dict[str, Ticket]:
    """Have `support` answer the tickets, a few at once, and say afterwards what was right; by request id."""
    places = asyncio.Semaphore(AT_ONCE)

    async def ask(ticket: Ticket) -> str:
        messages = [{"role": "user", "content": ticket.message}]
        body = {"model": "support", "messages": messages, "temperature": 0, "max_tokens": MAX_TOKENS}
        async with places:
            response = await http.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        return response.headers["x-request-id"]

    async def correct(request_id: str, ticket: Ticket) -> None:
        async with places:
            said = {"request_id": request_id, "correction": ticket.answer}
            response = await http.post("/v1/feedback", json=said)
        assert response.is_success, response.text

    ids = await asyncio.gather(*map(ask, tickets))
    await asyncio.gather(*map(correct, ids, tickets))
    return dict(zip(ids, tickets, strict=True))


class Judged:
    """What the monitor of a running `ostler up` found."""

    def __init__(self, database: AsyncEngine) -> None:
        self.database = database

    async def alarms(self) -> list[Any]:
        """The alarms of lost quality so far."""
        return [each for each in await decisions(self.database, adapter="support") if each.outcome == "alarm"]

    async def judged(self, http: httpx.AsyncClient, sessions: int) -> tuple[Any, Any]:
        """What the API tells of version 2 once so many sessions are scored: its own scores, and beside the base's."""
        found: Any = None

        async def scored() -> bool:
            nonlocal found
            answer = (await http.get("/admin/v1/adapters/support/quality")).json()
            (version,) = [each for each in answer["versions"] if each["version"] == 2]
            found = next((each for each in version["scorers"] if each["scorer"] == SCORER), None)
            return found is not None and found["observations"] >= sessions

        await until(scored, 120)
        return found, found["differences"][0]

    async def true_difference(self, labels: dict[str, Ticket]) -> float:
        """The mean difference by the labels, over the requests that both models answered."""
        table: Any = CaptureRow.__table__  # type: ignore[attr-defined]
        async with self.database.connect() as connection:
            rows = await connection.execute(select(table.c.request_id, table.c.variant, table.c.answer))
            found = [tuple(row) for row in rows]
        fields: dict[str, dict[bool, float]] = {}
        for request_id, variant, answer in found:
            if request_id in labels:
                share = score(answer or "", labels[request_id]).fields
                fields.setdefault(request_id, {})[variant == "shadow"] = share
        pairs = [both[False] - both[True] for both in fields.values() if len(both) == 2]
        return sum(pairs) / len(pairs)


async def test_a_shift_of_the_traffic_is_seen_and_not_before(up: Up, capsys: pytest.CaptureFixture[str]) -> None:
    """500 requests as in training and 500 of another kind, their labels sent as corrections.

    Scores and the difference to the base, with their intervals, move as the labels say; the alarm comes after the
    shift and not before it.
    """
    database = connect(f"sqlite:///{up.folder / 'home' / 'ostler.db'}")
    judging = Judged(database)
    async with watched(up) as http:
        before_labels = await answer_all(http, held_out(EACH, seed=4))
        own_before, base_before = await judging.judged(http, EACH)
        difference_before = await judging.true_difference(before_labels)
        assert await judging.alarms() == []
        after_labels = await answer_all(http, shifted(EACH, seed=4))
        own, base = await judging.judged(http, 2 * EACH)
        difference = await judging.true_difference(before_labels | after_labels)
        (alarm,) = await judging.alarms()
        screen = await asyncio.to_thread(up.cli, "quality", "support")
    await database.dispose()
    with capsys.disabled():
        print(f"\n{told('own scores', own_before, own)}\n{told('beside the base', base_before, base)}")
        print(f"by the labels: {difference_before:+.3f}, then {difference:+.3f} over all")
        print(f"alarm after {alarm.inputs['observations'] - EACH} sessions of the shift: {alarm.reason}")
        print(screen.stdout)

    assert own_before["mean"] > 0.95
    assert own_before["verdict"] == "as expected"
    assert own["verdict"] == "quality lost"
    assert own["recent"] < own_before["recent"] - 0.2
    assert own["high"] < own_before["low"]
    assert base_before["verdict"] == base["verdict"] == "better"
    for told_difference, by_labels in ((base_before, difference_before), (base, difference)):
        assert told_difference["low"] <= by_labels <= told_difference["high"]
    assert base["mean"] < base_before["mean"] - 0.05
    assert EACH < alarm.inputs["observations"] <= EACH + 100
    assert f"quality lost by {SCORER}" in screen.stdout


def told(what: str, *states: Any) -> str:
    """A mean with its interval, before and after."""
    means = (
        f"{each['mean']:+.3f} ({each['low']:+.3f} to {each['high']:+.3f}, newest {each['recent']:+.3f}, "
        f"{each['observations']} sessions)"
        for each in states
    )
    return f"{what}: " + ", then ".join(means)
