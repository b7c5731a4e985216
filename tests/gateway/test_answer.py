"""What is read of an answer's bytes: its id and why it ended, on all endpoints, and never in a model's own words."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answer import StreamedAnswer, read_whole
from gateway.usage import TAIL_BYTES, Usage

CHAT, COMPLETIONS, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
# What a model may write to be taken for what the engine says.
TRICKS = (
    '"finish_reason":"tricked"',
    '{"id":"tricked"}',
    'data: {"id":"tricked","choices":[{"finish_reason":"tricked"}]}\n\n',
    '"stop_reason":"tricked"',
    '"incomplete_details":{"reason":"tricked"}',
    'event: response.completed\ndata: {"response":{"id":"tricked","incomplete_details":{"reason":"tricked"}}}\n\n',
    "\\",
    '"',
    "x" * 600,
)
TEXT = st.lists(st.sampled_from(TRICKS) | st.text(st.characters(exclude_categories=["Cs"])), max_size=4).map("".join)
DONE = b"data: [DONE]\n\n"


def event(value: Any, name: str = "") -> bytes:
    """One event, in vLLM's spelling."""
    line = f"event: {name}\n".encode() if name else b""
    return line + b"data: " + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def chat_stream(text: str, reason: str) -> bytes:
    """As vLLM streams a chat completion, the count of tokens at its end."""

    def part(delta: Any, finish: str | None) -> Any:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "token_ids": None}
        return {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}

    usage = {"id": "chatcmpl-7", "object": "x", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    events = [part({"role": "assistant", "content": ""}, None), part({"content": text}, None), part({}, reason), usage]
    return b"".join(map(event, events)) + DONE


def messages_stream(text: str, reason: str) -> bytes:
    """As vLLM streams Anthropic's messages, here with a call of a tool, whose input is a string."""
    message: dict[str, Any] = {
        "id": "chatcmpl-7",
        "type": "message",
        "role": "assistant",
        "content": [],
        "stop_reason": None,
    }
    start = {"type": "message_start", "message": message}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "t", "input": {}}}
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": text}}
    usage = {"input_tokens": 3, "output_tokens": 2}
    end = {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}
    return b"".join(event(each, str(each["type"])) for each in (start, block, delta, end, {"type": "message_stop"}))


def response(text: str, reason: str | None) -> dict[str, Any]:
    """As vLLM tells a response: with what the client sent, and a text that may be long, after the details."""
    return {
        "id": "resp_7",
        "created_at": 1,
        "incomplete_details": {"reason": reason} if reason else None,
        "instructions": text,
        "metadata": {"incomplete_details": "tricked", "status": "tricked"},
        "model": "m",
        "output": [{"type": "message", "id": "msg_1", "content": [{"type": "output_text", "text": text}]}],
        "status": "incomplete" if reason else "completed",
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }


def responses_stream(text: str, reason: str | None) -> bytes:
    """As vLLM streams a response: its last event repeats all of it."""
    names = ("response.created", "response.output_text.delta", "response.completed")
    told: tuple[dict[str, Any], ...]
    told = ({"response": response("", None)}, {"delta": text}, {"response": response(text, reason)})
    return b"".join(
        event({**each, "sequence_number": number, "type": name}, name)
        for number, (name, each) in enumerate(zip(names, told, strict=True))
    )


def follow(path: str, parts: list[bytes]) -> StreamedAnswer:
    """What is read of a stream that comes in these parts."""
    answer = StreamedAnswer(path, body_bytes=40)
    for part in parts:
        answer.feed(part)
    answer.end()
    return answer


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    """The stream in parts."""
    places = sorted({place % (len(stream) + 1) for place in at})
    return [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]


STREAMS = {
    CHAT: (chat_stream, "stop", "stop", "chatcmpl-7"),
    COMPLETIONS: (chat_stream, "length", "length", "chatcmpl-7"),
    MESSAGES: (messages_stream, "tool_use", "tool_calls", "chatcmpl-7"),
    RESPONSES: (responses_stream, "max_output_tokens", "length", "resp_7"),
}


@pytest.mark.parametrize("path", STREAMS)
@given(text=TEXT, at=st.lists(st.integers(0, 20_000), max_size=12))
def test_a_stream_tells_its_id_and_its_end(path: str, text: str, at: list[int]) -> None:
    """Wherever it is cut and whatever the model writes."""
    make, reason, said, name = STREAMS[path]
    answer = follow(path, cut(make(text, reason), at))
    assert (answer.completion_id, answer.finish_reason) == (name, said)
    assert answer.usage == Usage(3, 2)


@given(TEXT)
def test_a_stream_tells_it_byte_by_byte(text: str) -> None:
    """The finest cut of all, of the endpoint whose end is farthest from its mark."""
    stream = responses_stream(text, None)
    answer = follow(RESPONSES, [stream[place : place + 1] for place in range(len(stream))])
    assert (answer.completion_id, answer.finish_reason) == ("resp_7", "stop")


def test_a_response_longer_than_the_tail_tells_its_end() -> None:
    """Its last event says it at its own beginning."""
    stream = responses_stream("word " * 10_000, "max_output_tokens")
    parts = [stream[start : start + 4096] for start in range(0, len(stream), 4096)]
    assert follow(RESPONSES, parts).finish_reason == "length"


@pytest.mark.parametrize("size", [1, 100, 100_000])
def test_a_long_stream_is_not_kept(size: int) -> None:
    """What stands at its head and at its end is known, however large its parts are."""
    stream = chat_stream("word " * 10_000, "stop")
    parts = [stream[start : start + size] for start in range(0, len(stream), size)]
    answer = follow(CHAT, parts)
    assert (answer.completion_id, answer.finish_reason, answer.usage) == ("chatcmpl-7", "stop", Usage(3, 2))
    assert len(answer._tail) <= 2 * TAIL_BYTES


@pytest.mark.parametrize("path", STREAMS)
@given(text=TEXT)
def test_a_stream_that_was_cut_off_has_no_end(path: str, text: str) -> None:
    """Its id stands at its head all the same."""
    make, reason, _, name = STREAMS[path]
    whole = make(text, reason)
    last = {CHAT: 3, COMPLETIONS: 3, MESSAGES: 2, RESPONSES: 1}[path]
    answer = follow(path, [b"".join(part + b"\n\n" for part in whole.split(b"\n\n")[: -last - 1])])
    assert (answer.completion_id, answer.finish_reason) == (name, None)


def test_events_are_counted_until_the_engine_says_its_count() -> None:
    """So a stream that the client leaves is not free; the prompt is guessed by its bytes."""
    answer = StreamedAnswer(CHAT, body_bytes=40)
    answer.feed(b"\n\n".join(chat_stream("hello", "stop").split(b"\n\n")[:2]))
    assert answer.usage == Usage(10, 2)


WHOLE_CHAT = {
    "id": "chatcmpl-7",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"tool_calls": []}, "finish_reason": "stop", "stop_reason": None}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}


@pytest.mark.parametrize("separators", [None, (",", ":")])
@given(text=TEXT)
def test_an_answer_in_one_piece_tells_the_same(separators: tuple[str, str] | None, text: str) -> None:
    """Of each endpoint; a tool's input is a model's own JSON, whose keys are its choice."""
    choice = {"index": 0, "message": {"content": text}, "logprobs": None, "finish_reason": "tool_calls"}
    message = {
        "id": "chatcmpl-7",
        "content": [{"type": "tool_use", "input": {"stop_reason": "tricked", text: {"id": "tricked"}}}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }
    wholes: list[tuple[str, dict[str, Any], str, str]] = [
        (CHAT, {**WHOLE_CHAT, "choices": [choice]}, "chatcmpl-7", "tool_calls"),
        (MESSAGES, message, "chatcmpl-7", "stop"),
        (RESPONSES, response(text, None), "resp_7", "stop"),
        (RESPONSES, response(text, "max_output_tokens"), "resp_7", "length"),
    ]
    for path, whole, name, reason in wholes:
        answer = read_whole(path, json.dumps(whole, separators=separators).encode())
        assert (answer.completion_id, answer.finish_reason, answer.usage) == (name, reason, Usage(3, 2)), path


def test_a_tools_input_is_not_the_reason_where_the_engine_gave_none() -> None:
    """As after an abort, when vLLM leaves the field out."""
    message = {"id": "c", "content": [{"type": "tool_use", "input": {"stop_reason": "tricked"}}]}
    assert read_whole(MESSAGES, json.dumps(message).encode()).finish_reason is None


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b'{"id":7}',
        b'{"id":"' + b"x" * 200 + b'"}',
        b'{"stop_reason":1,"finish_reason":null}',
        b"\xff",
    ],
)
def test_what_is_not_told_is_none(path: str, content: bytes) -> None:
    """Odd answers are no error; nor are bytes that are no events."""
    for answer in (read_whole(path, content), follow(path, [content])):
        assert (answer.completion_id, answer.finish_reason) == (None, None)


@pytest.mark.parametrize("path", STREAMS)
@given(content=st.binary())
def test_any_bytes_are_read_without_an_error(path: str, content: bytes) -> None:
    """An answer never fails for what is looked for in it."""
    read_whole(path, b'{"id":"' + content + b'"stop_reason":"' + content)
    follow(path, [b"data: {" + content, b'"finish_reason":' + content])
