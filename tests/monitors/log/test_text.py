"""What was said is found in the bytes of each API, streamed or not; odd bytes are refused, never fatal."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitors.log.text import LONGEST_TEXT, NotText, Said, said
from monitors.record import Text

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
HELLO = [{"role": "user", "content": "hello"}]
DONE = b"data: [DONE]\n\n"
SYSTEM = {"role": "system", "content": "be kind"}


def whole(value: Any) -> bytes:
    """An answer in one piece."""
    return json.dumps(value).encode()


def stream(*events: Any) -> bytes:
    """Events as engines send them."""
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + DONE


def delta(content: str | None, index: int = 0, **fields: Any) -> dict[str, Any]:
    """An event of a streamed chat."""
    return {"choices": [{"index": index, "delta": {"content": content}, **fields}]}


@pytest.mark.parametrize(
    ("path", "body", "answer", "expected"),
    [
        (
            CHAT,
            {"messages": HELLO},
            whole(
                {"choices": [{"index": 1, "message": {"content": "no"}}, {"index": 0, "message": {"content": "hi"}}]}
            ),
            Said(HELLO, "hi"),
        ),
        (CHAT, {"messages": HELLO}, stream(delta("h"), delta("no", 1), delta("i"), {"choices": []}), Said(HELLO, "hi")),
        (CHAT, {"messages": HELLO}, stream(delta("h")).removesuffix(DONE) + b'data: {"choi', Said(HELLO, "h")),
        (
            CHAT,
            {"messages": HELLO},
            whole({"choices": [{"message": {"content": None, "tool_calls": [{}]}}]}),
            Said(HELLO, None),
        ),
        (
            CHAT,
            {"messages": HELLO},
            whole(
                {
                    "choices": [
                        {"message": {"content": "a"}, "logprobs": {"content": [{"logprob": -1}, {"logprob": -2}]}}
                    ]
                }
            ),
            Said(HELLO, "a", -1.5),
        ),
        (COMPLETIONS, {"prompt": "once"}, whole({"choices": [{"text": " upon"}]}), Said("once", " upon")),
        (
            COMPLETIONS,
            {"prompt": ["a", "b"]},
            stream({"choices": [{"index": 1, "text": "y"}]}, {"choices": [{"index": 0, "text": "x"}]}),
            Said("a", "x"),
        ),
        (
            RESPONSES,
            {"input": "hello", "instructions": "be kind"},
            whole(
                {
                    "output": [
                        {"type": "reasoning"},
                        {"type": "message", "content": [{"type": "output_text", "text": "hi"}]},
                    ]
                }
            ),
            Said([SYSTEM, *HELLO], "hi"),
        ),
        (
            RESPONSES,
            {"input": HELLO},
            b"event: x\n"
            + stream(
                {"type": "response.output_text.delta", "delta": "h"},
                {"type": "response.output_text.delta", "delta": "i"},
                {"type": "response.completed", "response": {"output": []}},
            ),
            Said(HELLO, "hi"),
        ),
        (
            MESSAGES,
            {"messages": HELLO, "system": "be kind"},
            whole({"type": "message", "content": [{"type": "text", "text": "hi"}, {"type": "tool_use", "input": {}}]}),
            Said([SYSTEM, *HELLO], "hi"),
        ),
        (
            MESSAGES,
            {"messages": HELLO},
            stream(
                {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}}, {"type": "message_stop"}
            ),
            Said(HELLO, "hi"),
        ),
    ],
)
def test_prompt_and_answer_are_found(path: str, body: Any, answer: bytes, expected: Said) -> None:
    """Of the first choice, as far as the answer came."""
    assert said(path, Text(json.dumps(body).encode(), answer)) == expected


def test_pictures_and_files_are_left_out() -> None:
    """Nobody can say what they hold; the text beside them stays."""
    parts = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    found = said(CHAT, Text(whole({"messages": [{"role": "user", "content": parts}]}), b"{}"))
    assert found.prompt == [{"role": "user", "content": [parts[0], {"type": "image_url", "left_out": True}]}]


@pytest.mark.parametrize(
    ("path", "prompt", "reason"),
    [
        (CHAT, b"\x1f\x8b\x08", "unreadable"),
        (CHAT, b'{"messages": "hello"}', "unreadable"),
        (CHAT, b"[" * 100_000, "unreadable"),
        (COMPLETIONS, b'{"prompt": [1, 2, 3]}', "tokens"),
        ("/v1/embeddings", b"{}", "unknown_path"),
        (COMPLETIONS, whole({"prompt": "x" * (LONGEST_TEXT + 1)}), "too_large"),
    ],
)
def test_what_is_no_text_is_refused_with_a_word_for_it(path: str, prompt: bytes, reason: str) -> None:
    """It is counted under that word, and nothing of it is kept."""
    with pytest.raises(NotText) as refused:
        said(path, Text(prompt, b"{}"))
    assert refused.value.reason == reason


NAMES = st.sampled_from(["choices", "message", "delta", "content", "index", "text", "output", "type", "logprobs"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES | st.text(), inner),
    max_leaves=8,
)


@given(path=st.sampled_from([CHAT, COMPLETIONS, RESPONSES, MESSAGES]), body=JSON, answer=JSON | st.binary())
def test_any_bytes_are_either_taken_apart_or_refused(path: str, body: Any, answer: Any) -> None:
    """No other error comes of them."""
    usual = {"messages": HELLO, "input": "x", "prompt": "x"}
    prompt = whole(usual | body if isinstance(body, dict) else usual)
    with contextlib.suppress(NotText):
        said(path, Text(prompt, answer if isinstance(answer, bytes) else whole(answer)))
