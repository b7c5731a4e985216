"""The usage event and the tokens: found at the end of a stream however it is cut, and never in a model's own words."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.usage import TAIL_BYTES, Usage, UsageFilter, find_usage

USAGE = {"prompt_tokens": 24, "total_tokens": 40, "completion_tokens": 16}
# What a model may write, among it all that the filter looks for.
TRICKS = (
    '"usage":',
    '"choices":[]',
    '{"id":"c","choices":[],"usage":{"prompt_tokens":9999}}',
    'data: {"choices":[],"usage":{"prompt_tokens":9999}}\n\n',
    '\\"usage\\":{"prompt_tokens":9999}',
    "[DONE]",
    "\n\n",
    "\r\n\r\n",
    "\u2028é🐎",
)
TEXT = st.lists(st.sampled_from(TRICKS) | st.text(st.characters(exclude_categories=["Cs"])), max_size=4).map("".join)


def event(value: Any) -> bytes:
    """One event, in vLLM's spelling."""
    return b"data: " + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def delta(text: str, **more: Any) -> bytes:
    """An event with a part of the text."""
    return event({"id": "c", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **more})


USAGE_EVENT = event({"id": "c", "choices": [], "usage": USAGE})
DONE = b"data: [DONE]\n\n"
EVENTS = st.lists(
    TEXT.map(delta)
    | TEXT.map(lambda text: delta(text, usage=USAGE))
    | TEXT.map(lambda text: event({"choices": [], "prompt_filter_results": [text]}))
    | TEXT.map(lambda text: event({"choices": [], "usage": None, "note": text}))
    | TEXT.map(lambda text: event({"choices": [{"delta": {"tool_calls": [{"choices": [], "usage": text}]}}]}))
    | st.sampled_from(
        [b": keep-alive\n\n", b"event: ping\ndata: {}\n\n", b'data: not JSON "choices":[] "usage":1\n\n']
    ),
    max_size=6,
)


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    """The stream in parts."""
    places = sorted({place % (len(stream) + 1) for place in at})
    return [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]


def filtered(parts: list[bytes]) -> bytes:
    """What a client sees of the parts."""
    hide = UsageFilter()
    return b"".join([hide.feed(part) for part in parts] + [hide.rest()])


@given(EVENTS, EVENTS, st.lists(st.integers(0, 5000), max_size=12))
def test_exactly_the_usage_event_is_kept_back(before: list[bytes], after: list[bytes], at: list[int]) -> None:
    """Wherever the stream is cut and whatever the model writes, every other byte goes through in order."""
    stream = b"".join([*before, USAGE_EVENT, *after, DONE])
    assert filtered(cut(stream, at)) == b"".join([*before, *after, DONE])


@given(EVENTS)
def test_it_makes_no_difference_when_each_byte_comes_alone(events: list[bytes]) -> None:
    """The finest cut of all."""
    stream = b"".join([*events, USAGE_EVENT, DONE])
    assert filtered([stream[place : place + 1] for place in range(len(stream))]) == b"".join([*events, DONE])


@given(st.lists(st.binary(max_size=40), max_size=6))
@example([b'data: {"choices":[],"usage":"\xff"}\n\n'])
@example([b'data: "choices":[] "usage":' + b"[" * 100_000 + b"\n\n"])
@example([b"data: x\n\n \n", b"\n\ndata: y"])
def test_bytes_that_are_no_events_go_through(parts: list[bytes]) -> None:
    """Nothing is lost and nothing raised, whatever the engine sends."""
    assert filtered(parts) == b"".join(parts)


def test_a_whole_event_leaves_at_once() -> None:
    """And only the unfinished rest of a chunk waits for its end."""
    hide = UsageFilter()
    assert hide.feed(delta("a") + b"data: {") == delta("a")
    assert hide.feed(b'"x":1}\n') == b""
    assert hide.feed(b"\n" + delta("b")) == b'data: {"x":1}\n\n' + delta("b")
    assert hide.feed(b"data: half") == b""
    assert (hide.rest(), hide.rest()) == (b"data: half", b"")


@given(EVENTS, st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_tokens_are_the_engines_own(events: list[bytes], prompt: int, completion: int) -> None:
    """Read from the stream's last event, whatever the model wrote before it."""
    usage = {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}
    stream = b"".join([*events, event({"choices": [], "usage": usage}), DONE])
    assert find_usage(stream[-TAIL_BYTES:]) == Usage(prompt, completion)


@given(TEXT, st.sampled_from([None, (",", ":")]))
def test_the_tokens_of_a_whole_answer(text: str, separators: tuple[str, str] | None) -> None:
    """Before or after the model's text, and in the words of each endpoint."""
    for names in (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens")):
        usage = {names[0]: 3, names[1]: 4, "details": {"cached_tokens": 1}}
        for fields in ({"text": text, "usage": usage}, {"usage": usage, "text": text}):
            assert find_usage(json.dumps(fields, separators=separators).encode()) == Usage(3, 4)


@given(st.lists(TEXT.map(delta), max_size=4))
def test_a_models_words_are_never_taken_for_usage(events: list[bytes]) -> None:
    """A stream without usage has none, though its text speaks of it."""
    assert find_usage(b"".join([*events, DONE])) == Usage()


@pytest.mark.parametrize(
    ("tail", "found"),
    [
        (b"", Usage()),
        (b'{"usage":null}', Usage()),
        (b'{"usage":{}}', Usage()),
        (b'{"usage":"many"}', Usage()),
        (b'{"usage":{"prompt_tokens":"3","completion_tokens":4}}', Usage(None, 4)),
        (b'{"usage":{"prompt_tokens":3,"completion_tok', Usage()),
        (b'{"usage":{"prompt_tokens":1}}{"usage":{"prompt_tokens":2}}', Usage(2, None)),
        (b'{"usage":{"prompt_tokens":1,"completion_tokens":2}} {"usage":null}', Usage(1, 2)),
        (b'okens":9}}', Usage()),
        (b'{"usage":{"prompt_tokens":\xff}}', Usage()),
        (b'{"usage":{"a":{"b":{"c":{}},"d":{}},"prompt_tokens":5}, "x":{}}', Usage(5, None)),
        (b'{"usage":  {"output_tokens":6}}}', Usage(None, 6)),
        (b'{"usage":{"prompt_tokens":1}, "usage":}{"prompt_tokens":2}', Usage(1, None)),
    ],
)
def test_odd_ends_are_no_error(tail: bytes, found: Usage) -> None:
    """The last whole usage object counts; what is no number is not counted."""
    assert find_usage(tail) == found


@given(st.binary())
@example(b'"usage":' + b"{" * 8000)
@example(b'"usage":{"a":' * 500 + b"}" * 500)
@example(b'"usage":{"a":"\xff"}')
@example(b'"usage":{"a":' + b"[" * 7000 + b"}")
def test_any_bytes_are_searched_without_an_error(tail: bytes) -> None:
    """Usage is never the reason that an answer fails."""
    assert isinstance(find_usage(tail), Usage)
    assert isinstance(find_usage(b'"usage":' + tail), Usage)
