"""The teacher: what it is asked, when it is asked again, and that it never costs more than was allowed."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitors.teaching.teacher import MOST_ATTEMPTS, Answer, Teacher, TeacherFailed, TeacherStopped, with_instructions
from tests.monitors.teaching.teachers import Endpoint, Reply, completion, refusal

ASKED = [{"role": "user", "content": "hello"}]


def in_turn(*replies: Reply) -> Any:
    """Answers them one after the other."""
    left: Iterator[Reply] = iter(replies)
    return lambda _body: next(left)


async def test_it_is_asked_as_wanted() -> None:
    """Model, prompt, limits and key, at the address with or without its /v1."""
    endpoint = Endpoint()
    for url in ("http://teacher", "http://teacher/v1/"):
        teacher = endpoint.teacher(url=url, key="sk-1", temperature=0.0, max_tokens=7)
        answer = await teacher.answer(ASKED, tools=[{"type": "function"}])
        assert answer == Answer({"role": "assistant", "content": "yes"}, 10, 5)
    assert endpoint.headers[0]["authorization"] == "Bearer sk-1"
    assert endpoint.bodies[1] == {
        "model": "large",
        "messages": ASKED,
        "tools": [{"type": "function"}],
        "temperature": 0.0,
        "max_tokens": 7,
    }


def test_instructions_come_before_all_else_in_one_system_message() -> None:
    """Many chat templates take no second one."""
    own = {"role": "system", "content": "Be short."}
    assert with_instructions("", [own, *ASKED]) == [own, *ASKED]
    assert with_instructions("Label.", ASKED) == [{"role": "system", "content": "Label."}, *ASKED]
    assert with_instructions("Label.", [own, *ASKED])[0] == {"role": "system", "content": "Label.\n\nBe short."}


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, 529])
async def test_what_may_pass_is_asked_again(status: int) -> None:
    """After a pause that grows."""
    endpoint = Endpoint(in_turn(refusal(status), refusal(status), refusal(status), completion()))
    await endpoint.teacher().answer(ASKED)
    pauses = [after - before for before, after in zip(endpoint.moments, endpoint.moments[1:], strict=False)]
    assert [round(pause / 2**turn) for turn, pause in enumerate(pauses)] == [1, 1, 1]


async def test_it_waits_as_long_as_it_is_told_to() -> None:
    """In seconds, or until a moment; and all requests wait, not only the one that was told so."""
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    for said, least, most in (("7", 7, 7), ("0.5", 0.5, 0.5), (later, 85, 91), ("99999", 600, 600), ("soon", 0.8, 1.2)):
        endpoint = Endpoint(in_turn(refusal(429, {"retry-after": said}), completion(), completion()))
        teacher = endpoint.teacher()
        await teacher.answer(ASKED)
        assert least <= endpoint.moments[1] <= most, said
    endpoint = Endpoint(in_turn(refusal(429, {"retry-after": "9"}), completion(), completion()))
    teacher = endpoint.teacher()
    first = asyncio.ensure_future(teacher.answer(ASKED))
    while not endpoint.bodies:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.gather(first, teacher.answer(ASKED))
    assert endpoint.moments[0] == 0
    assert all(moment >= 9 for moment in endpoint.moments[2:])


async def test_it_is_not_asked_for_ever() -> None:
    """After some attempts the prompt has failed, with the last reason."""
    endpoint = Endpoint(lambda _body: refusal(503))
    with pytest.raises(TeacherFailed, match="it answered 503, 6 times"):
        await endpoint.teacher().answer(ASKED)
    assert len(endpoint.bodies) == MOST_ATTEMPTS
    endpoint = Endpoint(lambda _body: httpx.ReadTimeout("slow"))
    with pytest.raises(TeacherFailed, match="did not answer \\(ReadTimeout\\)"):
        await endpoint.teacher().answer(ASKED)


@pytest.mark.parametrize(
    "answer",
    [refusal(401), refusal(403), refusal(404), refusal(402), refusal(429, code="insufficient_quota")],
    ids=lambda answer: answer.status_code,
)
async def test_what_no_prompt_would_change_stops_all(answer: httpx.Response) -> None:
    """A wrong key or model, or an account without money, at the first answer."""
    endpoint = Endpoint(lambda _body: answer)
    with pytest.raises(TeacherStopped):
        await endpoint.teacher().answer(ASKED)
    assert len(endpoint.bodies) == 1


UNUSABLE = {
    "a prompt that it refuses": (refusal(400), "it answered 400"),
    "cut off": (completion("ye", "length"), "cut off"),
    "filtered": (completion("", "content_filter"), "refused"),
    "refused": (completion(None, refusal="no"), "refused"),
    "empty": (completion("  "), "empty"),
    "nothing": (completion(None), "empty"),
    "no completion": (httpx.Response(200, json={"choices": []}), "no chat completion"),
    "no JSON": (httpx.Response(200, text="<html>"), "no chat completion"),
    "no message": (httpx.Response(200, json={"choices": [{"message": None}]}), "no chat completion"),
}


@pytest.mark.parametrize(("answer", "why"), UNUSABLE.values(), ids=UNUSABLE)
async def test_what_cannot_be_learned_from_is_no_answer(answer: httpx.Response, why: str) -> None:
    """And is not asked for again: it would come the same, and cost again."""
    endpoint = Endpoint(lambda _body: answer)
    with pytest.raises(TeacherFailed, match=why):
        await endpoint.teacher().answer(ASKED)
    assert len(endpoint.bodies) == 1


async def test_a_call_of_a_tool_is_an_answer() -> None:
    """Without text."""
    calls = [{"id": "1", "type": "function", "function": {"name": "find", "arguments": "{}"}}]
    endpoint = Endpoint(lambda _body: completion(None, "tool_calls", tool_calls=calls, reasoning="because"))
    answer = await endpoint.teacher().answer(ASKED)
    assert answer.message == {"role": "assistant", "content": None, "tool_calls": calls}


async def test_the_limit_goes_by_the_name_that_the_endpoint_knows() -> None:
    """OpenAI's newer models refuse the old one and say the new one."""
    words = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    endpoint = Endpoint(lambda body: refusal(400, message=words) if "max_tokens" in body else completion())
    teacher = endpoint.teacher(max_tokens=3)
    await teacher.answer(ASKED)
    await teacher.answer(ASKED)
    assert [body.get("max_completion_tokens") for body in endpoint.bodies] == [None, 3, 3]


async def test_requests_keep_to_their_rate() -> None:
    """However many are asked at once."""
    endpoint = Endpoint()
    teacher = endpoint.teacher(requests_per_minute=30)
    await asyncio.gather(*(teacher.answer(ASKED) for _ in range(5)))
    assert endpoint.moments == [0, 2, 4, 6, 8]


async def test_money_is_counted_by_the_endpoints_own_count() -> None:
    """Also for an answer that is of no use; not for a refusal; all that it might have cost where nobody counts."""
    endpoint = Endpoint(in_turn(refusal(500), completion(), completion("", "length")))
    teacher = endpoint.teacher(price_in=100_000, price_out=1_000_000)
    await teacher.answer(ASKED)
    assert teacher.budget.spent == pytest.approx(10 * 0.1 + 5 * 1.0)
    with pytest.raises(TeacherFailed):
        await teacher.answer(ASKED)
    assert teacher.budget.spent == pytest.approx(2 * 6.0)
    endpoint.reply = in_turn(completion(usage=None), httpx.ReadTimeout("slow"), completion())
    await teacher.answer(ASKED)
    unknown = teacher.budget.spent - 12.0
    assert unknown > 1024 * 1.0
    await teacher.answer(ASKED)
    assert teacher.budget.spent == pytest.approx(12.0 + 2 * unknown + 6.0)


@given(
    most=st.floats(0.0, 3.0),
    tokens=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20)), min_size=1, max_size=20),
)
def test_it_never_costs_more_than_allowed(most: float, tokens: list[tuple[int, int]]) -> None:
    """Whatever requests turn out to cost, and however many are on their way at once."""
    usages = [{"prompt_tokens": each[0], "completion_tokens": each[1]} for each in tokens]
    endpoint = Endpoint(in_turn(*(completion(usage=usage) for usage in usages)))

    async def ask_all(teacher: Teacher) -> list[Any]:
        return await asyncio.gather(*(teacher.answer(ASKED) for _ in usages), return_exceptions=True)

    teacher = endpoint.teacher(price_in=1_000, price_out=10_000, max_tokens=20, max_cost=most)
    found = asyncio.run(ask_all(teacher))
    assert teacher.budget.spent <= most + 1e-12
    answered = [each for each in found if isinstance(each, Answer)]
    assert len(answered) == len(endpoint.bodies)
    assert all(isinstance(each, Answer | TeacherStopped) for each in found)
    bound = (len('[[{"content":"hello","role":"user"}],null]') + 16) * 0.001 + 20 * 0.01
    if len(answered) < len(usages):  # it stopped only as the next one might have cost too much
        assert teacher.budget.spent + bound > most - 1e-9
