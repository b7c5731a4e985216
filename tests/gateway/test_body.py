"""Reading a client's body one level deep: whatever the bytes, and without changing what is not the gateway's."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.body import ClientGone, decode, read_bytes
from gateway.errors import BodyTooLarge, InvalidRequest

_DEEP = 100_000
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
OWN = ("model", "stream", "stream_options")
FIELDS = st.dictionaries(TEXT.filter(lambda name: name not in OWN), JSON, max_size=6)


def body(fields: dict[str, Any], *, indent: int | None = None, ascii: bool = True) -> bytes:
    """The fields as some client's JSON."""
    return json.dumps({"model": "support", **fields}, indent=indent, ensure_ascii=ascii).encode()


@given(st.binary() | st.from_regex(rb'\{"model":\s*.{0,20}\}', fullmatch=True))
@example(b'{"model": "\xff"}')
@example(b'{"model": "\\ud800"}')
@example(b'{"\\ud800": 1, "model": "x"}')
@example(b'{"\xff": 1, "model": "x"}')
@example(b'{"model": "\\x"}')
@example(b'{"model": "x", "a": ' + b"[" * _DEEP + b"]" * _DEEP + b"}")
@example(b'{"model": ' + b'{"a":' * _DEEP + b"1" + b"}" * _DEEP + b"}")
@example(b"[" * _DEEP)
@example(b"\xef\xbb\xbf{}")
@example(b"")
def test_any_bytes_are_read_or_refused_in_our_words(raw: bytes) -> None:
    """`decode` raises nothing but InvalidRequest, and what it took can be sent on and asked for its usage."""
    with contextlib.suppress(InvalidRequest):
        found = decode(raw)
        found.request_usage()
        assert json.loads(found.encode_for("other").decode("utf-8", "replace"))["model"] == "other"


@given(st.binary())
@example(b'{"a": "\xff"}')
@example(b'{"include_usage": true')
@example(b"[[]]")
def test_any_stream_options_are_read_or_left_to_the_engine(options: bytes) -> None:
    """What is no JSON object is left as it came, for the engine to refuse."""
    try:
        found = decode(b'{"model": "support", "stream": true, "stream_options": ' + options + b"}")
        hidden = not found.request_usage()
    except InvalidRequest:
        return
    sent = found.encode_for("x")
    assert hidden == (b'"include_usage":true' in sent) or b"include_usage" in options


@given(FIELDS, st.sampled_from([None, 2]), st.booleans(), TEXT)
def test_another_model_changes_nothing_else(
    fields: dict[str, Any], indent: int | None, ascii: bool, model: str
) -> None:
    """Every other field means to the engine what it meant to the client, whatever its form, to the last digit."""
    sent = json.loads(decode(body(fields, indent=indent, ascii=ascii)).encode_for(model))
    assert sent == {"model": model, **fields}
    assert json.dumps({**sent, "model": 0}, sort_keys=True) == json.dumps({**fields, "model": 0}, sort_keys=True)


@pytest.mark.parametrize("number", ["1e999", "0.1000000000000000055511151231257827", "12345678901234567890123", "-0.0"])
def test_numbers_keep_their_spelling(number: str) -> None:
    """A number that Python would round or refuse goes on as it came."""
    sent = decode(b'{"model": "x", "seed": ' + number.encode() + b"}").encode_for("y")
    assert sent == b'{"model":"y","seed":' + number.encode() + b"}"


@given(st.lists(TEXT, min_size=1, max_size=4), FIELDS, st.booleans())
def test_of_a_field_that_comes_twice_the_last_counts_for_both(
    models: list[str], fields: dict[str, Any], escaped: bool
) -> None:
    """The gateway checks the very model that the engine is asked for, as it is sent once; other fields likewise."""
    name = "mod\\u0065l" if escaped else "model"
    parts = [f'"model": {json.dumps(model)}' for model in models[:-1]] + [f'"{name}": {json.dumps(models[-1])}']
    twice = [f"{json.dumps(name)}: 0, {json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items()]
    found = decode(f"{{{', '.join(parts + twice)}}}".encode())
    assert found.model == models[-1]
    pairs = json.loads(found.encode_for(found.model), object_pairs_hook=list)
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names))
    assert json.loads(found.encode_for(found.model)) == {**fields, "model": models[-1]}


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        (b"{", "invalid_json", None),
        (b"[]", "invalid_type", None),
        (b'"x"', "invalid_type", None),
        (b"{}", "missing_field", "model"),
        (b'{"model": 7}', "invalid_type", "model"),
        (b'{"model": ["x"]}', "invalid_type", "model"),
        (b'{"model": "x", "stream": 1}', "invalid_type", "stream"),
        (b'{"model": "x", "stream": "true"}', "invalid_type", "stream"),
        (b'{"model": "x", "stream": true, "stream": "no"}', "invalid_type", "stream"),
    ],
)
def test_a_refusal_names_the_field(raw: bytes, code: str, param: str | None) -> None:
    """With a code for programs."""
    with pytest.raises(InvalidRequest) as refused:
        decode(raw)
    assert (refused.value.code, refused.value.param) == (code, param)


@pytest.mark.parametrize(
    ("options", "asked", "sent"),
    [
        ("", False, {"include_usage": True}),
        (', "stream_options": null', False, {"include_usage": True}),
        (', "stream_options": {}', False, {"include_usage": True}),
        (', "stream_options": {"include_usage": false, "x": 1e999}', False, None),
        (', "stream_options": {"include_usage": null}', False, {"include_usage": True}),
        (', "stream_options": {"include_usage": true}', True, {"include_usage": True}),
        (', "stream_options": {"include_usage": false, "include_usage": true}', True, {"include_usage": True}),
        (', "stream_options": {"include_usage": true, "include_usage": false}', False, {"include_usage": True}),
        (', "stream_options": 7', True, 7),
        (', "stream_options": [["include_usage", false]]', True, [["include_usage", False]]),
    ],
)
def test_usage_is_asked_for_whether_the_client_did_or_not(options: str, asked: bool, sent: Any) -> None:
    """And it is known whether the client did; a wrong type is not repaired."""
    found = decode(b'{"model": "x", "stream": true' + options.encode() + b"}")
    assert found.request_usage() is asked
    raw = found.encode_for("x")
    if sent is None:
        assert raw.endswith(b'"stream_options":{"include_usage":true,"x":1e999}}')
    else:
        assert json.loads(raw)["stream_options"] == sent


@pytest.mark.parametrize("value", ["0", '"off"', '"true"', "[]"])
def test_a_usage_wish_that_is_no_boolean_is_refused(value: str) -> None:
    """The engine reads "off" as false, and then no usage would come and no token be counted."""
    found = decode(b'{"model": "x", "stream": true, "stream_options": {"include_usage": ' + value.encode() + b"}}")
    with pytest.raises(InvalidRequest) as refused:
        found.request_usage()
    assert refused.value.param == "stream_options.include_usage"


class _Messages:
    """An ASGI server's `receive`."""

    def __init__(self, parts: list[bytes], *, gone: bool = False) -> None:
        self._messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": part, "more_body": True} for part in parts
        ]
        self._messages.append({"type": "http.disconnect"} if gone else {"type": "http.request"})
        self.read = 0

    async def __call__(self) -> dict[str, Any]:
        self.read += 1
        return self._messages[self.read - 1]


@given(st.lists(st.binary(max_size=8), max_size=8), st.integers(0, 40))
async def test_a_body_is_read_whole_or_not_at_all(parts: list[bytes], limit: int) -> None:
    """However it is cut; over the limit it is refused, and exactly the limit is not over it."""
    whole = b"".join(parts)
    for declared in (None, b"%d" % len(whole)):
        if len(whole) > limit:
            with pytest.raises(BodyTooLarge):
                await read_bytes(_Messages(parts), declared, limit)
        else:
            assert await read_bytes(_Messages(parts), declared, limit) == whole


async def test_a_body_too_large_is_refused_before_it_is_read() -> None:
    """By the length that the client declares, and else as soon as the limit is passed."""
    announced = _Messages([b"x"] * 9)
    with pytest.raises(BodyTooLarge, match="9 bytes"):
        await read_bytes(announced, b"9", 4)
    assert announced.read == 0
    silent = _Messages([b"x"] * 9)
    with pytest.raises(BodyTooLarge):
        await read_bytes(silent, None, 4)
    assert silent.read == 5


async def test_half_a_body_of_a_client_that_left_is_no_body() -> None:
    """Even if it would be JSON."""
    with pytest.raises(ClientGone):
        await read_bytes(_Messages([b"{}"], gone=True), None, 100)


def test_the_body_is_not_copied_field_by_field() -> None:
    """What is not the gateway's stays undecoded."""
    found = decode(b'{"model": "x", "messages": [{"content": "\\u00e9"}]}')
    assert isinstance(found.fields["messages"], msgspec.Raw)
    assert b'"\\u00e9"' in found.encode_for("y")
