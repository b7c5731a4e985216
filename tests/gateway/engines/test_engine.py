"""How vLLM's errors are put into words for clients."""

import json

import pytest

from gateway.engines.engine import explain


def vllm(message: str) -> bytes:
    """An error as vLLM answers it."""
    return json.dumps({"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}}).encode()


@pytest.mark.parametrize(
    ("message", "words", "param"),
    [
        (
            "1 validation error:\n  {'type': 'missing', 'loc': 'body.messages', 'msg': 'Field required', 'input': 'x'}",
            "messages: Field required",
            "messages",
        ),
        (
            "1 validation error:\n  {'loc': 'body.messages.0.role', 'msg': \"It's wrong\", 'input': 'my secret'}",
            "messages.0.role: It's wrong",
            "messages",
        ),
        (
            "max_tokens=5000 cannot be greater than max_model_len=512. (parameter=max_tokens, value=5000)",
            "max_tokens=5000 cannot be greater than max_model_len=512.",
            "max_tokens",
        ),
        ("Stream options need stream. (parameter=stream_options)", "Stream options need stream.", "stream_options"),
        ("No adapter found for /srv/models/a-1/x", "No adapter found for [path]", None),
        ("either/or is fine", "either/or is fine", None),
    ],
)
def test_the_words_and_the_parameter_are_taken_out(message: str, words: str, param: str | None) -> None:
    """What to mend is told; the client's input and the engine's paths are not repeated."""
    assert explain(vllm(message)) == (words, param)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": "x"}', b'{"error": {}}', b"\xff"])
def test_an_error_in_another_form_is_told_in_general_words(body: bytes) -> None:
    """Nothing of it is shown."""
    assert explain(body) == ("the engine gave no reason", None)


def test_endless_words_are_cut() -> None:
    """A client gets a line, not a page."""
    assert len(explain(vllm("word " * 10_000))[0]) <= 300
