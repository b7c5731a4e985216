"""What clients say of answers, from the request to what admins see of it."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway import feedback
from gateway.settings import GatewaySettings
from monitors.log.feedback import Reference, find_answered
from monitors.tables import FeedbackRow
from registry.catalog import ApiKey, KeyLimits, Scope
from registry.database import connect
from registry.errors import NotFound
from tests.conftest import RunningGateway, serving, until
from tests.gateway.answers import error_of, new_key, stranger

PATIENT = pytest.mark.parametrize("gateway_settings", [20.0], indirect=True)
FEEDBACK = FeedbackRow.__table__  # type: ignore[attr-defined]  # what SQLModel adds to a table model
MODEL = {"model": "support", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def gateway_settings(gateway_settings: GatewaySettings, request: pytest.FixtureRequest) -> GatewaySettings:
    """The usual ones; a test may have feedback wait longer for its request."""
    patience = getattr(request, "param", gateway_settings.feedback_wait_s)
    return gateway_settings.model_copy(update={"feedback_wait_s": patience})


class Clients:
    """A gateway whose `support` has version 1 live, and keys of its clients."""

    def __init__(self, gateway: RunningGateway, settings: GatewaySettings) -> None:
        self.gateway = gateway
        self.settings = settings

    async def key(self, **fields: Any) -> str:
        """A client's key."""
        secret, _ = await new_key(self.gateway, **fields)
        return secret

    async def ask(self, secret: str, id: str, model: str = "support", **headers: str) -> None:
        """A request of that id, answered and recorded."""
        before = await self.recorded(id)
        headers |= {"authorization": f"Bearer {secret}", "x-request-id": id}
        body = {**MODEL, "model": model}
        answer = await self.gateway.http.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.status_code == 200, answer.text

        async def is_recorded() -> bool:
            return await self.recorded(id) > before

        await until(is_recorded)

    async def recorded(self, id: str) -> int:
        """How many requests of that id are in the log."""
        query = text("SELECT count(*) FROM request_log WHERE request_id = :id")
        async with self.gateway.app.state.database.connect() as connection:
            return int((await connection.execute(query, {"id": id})).scalar())

    async def say(self, secret: str, **body: Any) -> httpx.Response:
        """Give feedback."""
        return await stranger(self.gateway, secret, "POST", "/v1/feedback", json=body)

    async def listed(self, **params: Any) -> list[dict[str, Any]]:
        """What admins see."""
        response = await self.gateway.http.get("/admin/v1/feedback", params=params)
        assert response.status_code == 200, response.text
        found: list[dict[str, Any]] = response.json()["data"]
        return found


@pytest.fixture
async def clients(gateway: RunningGateway, gateway_settings: GatewaySettings) -> Clients:
    """The gateway and its clients."""
    await gateway.push("support", 1.0)
    await gateway.push("other", 2.0)
    assert (await gateway.promote("support", 1)).is_success
    assert (await gateway.promote("other", 1)).is_success
    return Clients(gateway, gateway_settings)


@PATIENT
async def test_the_openai_sdk_gives_feedback_right_after_the_answer(clients: Clients) -> None:
    """Before the request is recorded, and at another gateway: both wait for it."""
    gateway = clients.gateway
    secret = await clients.key()
    async with (
        openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key=secret) as client,
        serving(clients.settings) as (url, _),
        openai.AsyncOpenAI(base_url=url + "/v1", api_key=secret, max_retries=0) as elsewhere,
    ):
        raw = await client.chat.completions.with_raw_response.create(**MODEL)  # type: ignore[call-overload]
        completion, request_id = raw.parse(), raw.headers["x-request-id"]
        body = {"completion_id": completion.id, "thumb": "up"}
        by_completion = await client.post("/feedback", cast_to=dict[str, Any], body=body)
        body = {"request_id": request_id, "score": 0.75, "correction": "What is right."}
        by_request = await elsewhere.post("/feedback", cast_to=dict[str, Any], body=body)
    assert by_completion["request_id"] == by_request["request_id"] == request_id
    assert (by_request["adapter"], by_request["version"], by_request["variant"]) == ("support", 1, "stable")
    told = [(one["thumb"], one["score"], one["correction"]) for one in await clients.listed(adapter="support")]
    assert told == [(None, 0.75, "What is right."), ("up", None, None)]


async def test_the_same_feedback_under_an_id_is_kept_once(clients: Clients) -> None:
    """Sent again it is answered alike; something else under the id is refused; other keys have ids of their own."""
    secret, other = await clients.key(), await clients.key()
    await clients.ask(secret, "mine")
    await clients.ask(secret, "mine-2")
    await clients.ask(other, "theirs")
    body = {"request_id": "mine", "id": "1", "thumb": "down", "score": 0.1, "comment": "no"}
    first = await clients.say(secret, **body)
    assert first.status_code == 201
    again = await asyncio.gather(*(clients.say(secret, **body) for _ in range(4)))
    assert {(one.status_code, one.text) for one in again} == {(200, first.text)}
    for changed in ({"thumb": "up"}, {"score": 0.2}, {"comment": "No"}, {"correction": "x"}, {"request_id": "mine-2"}):
        refused = await clients.say(secret, **body | changed)
        assert refused.status_code == 409
        assert error_of(refused)["param"] == "id"
    assert (await clients.say(other, **body | {"request_id": "theirs"})).status_code == 201
    assert len(await clients.listed()) == 2


async def test_feedback_whose_words_are_no_longer_kept_can_be_sent_again(clients: Clients) -> None:
    """It is the same but for them; other numbers are still other feedback, and so are words that were never there."""
    secret = await clients.key()
    await clients.ask(secret, "mine")
    body = {"request_id": "mine", "id": "1", "thumb": "down", "comment": "no", "correction": "yes"}
    assert (await clients.say(secret, **body)).status_code == 201
    bare = {"request_id": "mine", "id": "2", "thumb": "up"}
    assert (await clients.say(secret, **bare)).status_code == 201
    assert (await clients.say(secret, **bare, comment="new")).status_code == 409
    async with clients.gateway.app.state.database.begin() as connection:
        await connection.execute(text("UPDATE feedback SET comment = NULL, correction = NULL"))
        at = datetime.now(UTC) - timedelta(days=31)
        await connection.execute(sqlalchemy.update(FEEDBACK).where(FEEDBACK.c.client_id == "1").values(created_at=at))
    again = await clients.say(secret, **body)
    assert (again.status_code, again.json()["comment"], again.json()["thumb"]) == (200, None, "down")
    assert (await clients.say(secret, **body | {"thumb": "up"})).status_code == 409
    assert (await clients.say(secret, **bare, comment="new")).status_code == 409, "whose words would still be kept"


async def test_feedback_that_waits_leaves_room_for_others(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that names what never was takes its own places alone; feedback whose request is there needs none."""
    secret, key = await new_key(clients.gateway)
    other = await clients.key()
    await clients.ask(secret, "there")
    looks: Counter[str | None] = Counter()
    released = asyncio.Event()

    async def look(engine: AsyncEngine, reference: Reference) -> Any:
        looks[reference.key_id] += 1
        if reference.key_id == key["id"] and looks[key["id"]] in (3, 4):
            await released.wait()  # the second looks of the two that wait
        return await find_answered(engine, reference)

    monkeypatch.setattr(feedback, "_PLACES", feedback.Places(3, 2))
    monkeypatch.setattr(feedback, "find_answered", look)
    waiting = [asyncio.create_task(clients.say(secret, request_id="never", thumb="up")) for _ in range(2)]

    async def are_waiting() -> bool:
        return looks[key["id"]] == 4

    await until(are_waiting)
    refused = await clients.say(secret, request_id="never", thumb="up")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert error_of(refused)["code"] == "rate_limit_exceeded"
    assert (await clients.say(secret, request_id="there", thumb="up")).status_code == 201
    assert (await clients.say(other, request_id="never", thumb="up")).status_code == 404
    released.set()
    assert [one.status_code for one in await asyncio.gather(*waiting)] == [404, 404]
    assert (await clients.say(secret, request_id="never", thumb="up")).status_code == 404


async def test_places_are_for_all_keys_together(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one left, feedback is looked for once and is to be sent again."""
    monkeypatch.setattr(feedback, "_PLACES", feedback.Places(0, 8))
    secret = await clients.key()
    assert (await clients.say(secret, request_id="never", thumb="up")).status_code == 429


async def test_pauses_between_looks_grow(database: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five looks in the usual four seconds, the last at their end."""
    clock, looks = [0.0], [0.0]

    async def sleep(seconds: float) -> None:
        clock[0] += seconds
        looks.append(clock[0])

    monkeypatch.setattr(feedback, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(feedback, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    key = ApiKey("key-1", "", "", frozenset(), None, KeyLimits(), "", datetime.now(UTC))
    with pytest.raises(NotFound):
        await feedback._wait_for(database, Reference("never", None, "key-1"), key, 4.0)
    assert looks == pytest.approx([0.0, 0.1, 0.4, 1.3, 4.0])


async def test_what_a_key_may_not_see_was_never_there(clients: Clients) -> None:
    """Another key's request, one of an adapter that is taken from the key, and one that never was: the same answer."""
    secret, key = await new_key(clients.gateway)
    bound, other = await clients.key(adapters=["support"]), await clients.key()
    await clients.ask(secret, "taken", "other")
    await clients.ask(secret, "base", "tiny")
    await clients.ask(other, "theirs")
    narrowed = await clients.gateway.http.patch(f"/admin/v1/keys/{key['id']}", json={"adapters": ["support"]})
    assert narrowed.is_success

    async def refused(secret: str, reference: str) -> tuple[int, str, list[tuple[str, str]]]:
        headers = {"authorization": f"Bearer {secret}", "x-request-id": "same"}
        body = {"request_id": reference, "thumb": "up"}
        response = await clients.gateway.http.post("/v1/feedback", json=body, headers=headers)
        shown = sorted((name, value) for name, value in response.headers.items() if name != "date")
        return response.status_code, response.text, shown

    answers = [await refused(secret, each) for each in ("taken", "base", "theirs", "never")]
    answers += [await refused(bound, each) for each in ("taken", "theirs", "never")]
    assert answers[0][0] == 404
    assert all(answer == answers[0] for answer in answers)
    assert await clients.listed() == []
    admin = await clients.gateway.http.post("/v1/feedback", json={"request_id": "taken", "thumb": "up"})
    assert (admin.status_code, admin.json()["adapter"]) == (201, "other")


async def test_a_request_that_is_no_longer_kept_cannot_be_labelled(clients: Clients) -> None:
    """What was said of it before stays."""
    secret = await clients.key()
    await clients.ask(secret, "old")
    assert (await clients.say(secret, request_id="old", thumb="up")).status_code == 201
    database = connect(clients.settings.database)
    async with database.begin() as connection:
        await connection.execute(text("DELETE FROM request_log"))
    await database.dispose()
    gone = await clients.say(secret, request_id="old", thumb="down")
    assert gone.status_code == 404
    assert error_of(gone)["code"] == "not_found"
    assert [one["thumb"] for one in await clients.listed()] == ["up"]


async def test_the_monitors_own_requests_are_never_meant(clients: Clients) -> None:
    """Also where a client's request has the same id."""
    secret = await clients.key()
    await clients.ask(secret, "same")
    await clients.ask(clients.gateway.key, "same", **{"x-ostler-purpose": "evaluation"})
    said = await clients.gateway.http.post("/v1/feedback", json={"request_id": "same", "thumb": "up"})
    assert (said.status_code, said.json()["variant"]) == (201, "stable")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"thumb": "up"}, "request_id or completion_id"),
        ({"request_id": "a", "completion_id": "b", "thumb": "up"}, "one of them"),
        ({"request_id": "a"}, "at least one of thumb, score, comment, correction"),
        ({"request_id": "a", "id": "x"}, "at least one of"),
        ({"request_id": "a", "thumb": "sideways"}, "`thumb` must be 'down', 'up' or null"),
        ({"request_id": "a", "score": 1.01}, "score"),
        ({"request_id": "a", "score": -0.01}, "score"),
        ({"request_id": "a", "score": "1"}, "score"),
        ({"request_id": "a", "score": True}, "score"),
        ({"request_id": "a", "comment": "x" * 4001}, "comment"),
        ({"request_id": "a", "comment": ""}, "comment"),
        ({"request_id": "a", "correction": "x" * 32_001}, "correction"),
        ({"request_id": "a", "comment": "a\0b"}, "comment"),
        ({"request_id": "a\0b", "thumb": "up"}, "request_id"),
        ({"request_id": "a", "thumb": "up", "id": "\0"}, "id"),
        ({"request_id": "a", "thumb": "up", "stars": 5}, "stars"),
    ],
)
async def test_feedback_that_makes_no_sense_is_refused(
    shared_gateway: RunningGateway, body: dict[str, Any], words: str
) -> None:
    """In words that say what would be right."""
    response = await shared_gateway.http.post("/v1/feedback", json=body)
    assert response.status_code == 400, response.text
    assert words in error_of(response)["message"]


@pytest.mark.parametrize(
    "raw", [b'{"request_id": "a", "score": 1e999}', b'{"request_id": "a", "score": NaN}', b"[", b""]
)
async def test_bodies_that_are_no_feedback_are_refused(shared_gateway: RunningGateway, raw: bytes) -> None:
    """Numbers without end among them, and half of a surrogate pair."""
    for content in (raw, b'{"request_id": "a", "comment": "\\ud800"}'):
        response = await shared_gateway.http.post("/v1/feedback", content=content)
        assert response.status_code == 400, response.text


async def test_a_body_over_the_limit_is_refused(clients: Clients) -> None:
    """Before it is read."""
    response = await clients.gateway.http.post("/v1/feedback", content=b" " * (1 << 20) + b"{}")
    assert response.status_code == 413


async def test_the_longest_texts_are_taken_and_redacted(clients: Clients) -> None:
    """What personal data is found in comments and corrections is not stored."""
    secret = await clients.key()
    await clients.ask(secret, "r")
    correction = "\N{GRINNING FACE}" * 31_000 + " write to jane.doe@example.com"
    said = await clients.say(secret, request_id="r", id="1", comment="call +1 415 555 2671", correction=correction)
    assert said.status_code == 201, said.text
    (stored,) = await clients.listed()
    assert stored["correction"].endswith("write to [EMAIL]")
    assert stored["comment"] == "call [PHONE]"
    again = await clients.say(secret, request_id="r", id="1", comment="call +1 415 555 2671", correction=correction)
    assert (again.status_code, again.json()) == (200, said.json())


async def test_only_keys_with_the_scope_give_feedback(clients: Clients) -> None:
    """And only admins list it."""
    without = await clients.key(scopes=[Scope.INFERENCE, Scope.TUNING])
    assert (await clients.say(without, request_id="r", thumb="up")).status_code == 403
    only = await clients.key(scopes=[Scope.FEEDBACK])
    assert (await clients.say(only, request_id="r", thumb="up")).status_code == 404
    assert (await stranger(clients.gateway, only, "GET", "/admin/v1/feedback")).status_code == 403


async def test_the_list_goes_on_from_a_feedback(clients: Clients) -> None:
    """And is narrowed by adapter, version and time."""
    secret = await clients.key()
    await clients.ask(secret, "a")
    await clients.ask(secret, "b", "other")
    for score in (0.1, 0.2, 0.3):
        assert (await clients.say(secret, request_id="a", score=score)).status_code == 201
    assert (await clients.say(secret, request_id="b", score=0.9)).status_code == 201
    page = (await clients.gateway.http.get("/admin/v1/feedback", params={"adapter": "support", "limit": 2})).json()
    assert ([one["score"] for one in page["data"]], page["has_more"]) == ([0.3, 0.2], True)
    rest = await clients.listed(adapter="support", limit=2, before=page["data"][-1]["id"])
    assert [one["score"] for one in rest] == [0.1]
    assert len(await clients.listed(version=1)) == 4
    assert await clients.listed(since="2200-01-01T00:00:00") == []
    assert len(await clients.listed(since="2020-01-01T00:00:00+02:00")) == 4
    for since in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "soon"):
        refused = await clients.gateway.http.get("/admin/v1/feedback", params={"since": since})
        assert refused.status_code == 400, since
