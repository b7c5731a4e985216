"""Captured prompts as rows have them."""

from typing import Any

import pytest

from monitors.judging.golden import Message
from monitors.teaching.prompts import answered, captured_messages


@pytest.mark.parametrize(
    "prompt",
    [
        None,
        "a text of /v1/completions",
        [{"role": "user", "content": [{"type": "image_url", "left_out": True}]}],
        [{"type": "function_call", "name": "look"}],
        [{"role": "narrator", "content": "once"}],
        [{"role": "user", "content": [{"text": "without a type"}]}],
        [{"role": "user", "content": 5}],
        ["hello"],
    ],
)
def test_what_is_no_chat_of_text_is_none(prompt: Any) -> None:
    """Whatever else clients send."""
    assert captured_messages(prompt) is None


def test_parts_of_text_become_one() -> None:
    """As the engine reads them; what only the client knows is left out."""
    parts = [{"type": "input_text", "text": "one"}, {"type": "text", "text": "two"}]
    said = [{"role": "system", "content": "be short", "id": "x"}, {"role": "user", "content": parts, "name": "ann"}]
    assert captured_messages(said) == [Message("system", "be short"), Message("user", "one\ntwo", "ann")]


def test_earlier_turns_of_the_assistant_are_not_learned() -> None:
    """Nobody said that they were right."""
    messages = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
    row = answered(messages, Message("assistant", "d"), "correction")
    assert [message.weight for message in row.messages] == [None, 0, None, None]
    assert row.source == "correction"
