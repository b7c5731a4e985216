"""A client's JSON body, read one level deep: what the gateway must know is taken out, the rest stays as it came."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.errors import BodyTooLarge, InvalidRequest

_NOT_COPIED = frozenset({"stream", "stream_options", "priority"})
_SESSION_FIELDS = ("prompt_cache_key", "safety_identifier", "user")
_USER_FIELDS = ("user", "safety_identifier")
_shallow = msgspec.json.Decoder(dict[str, msgspec.Raw])
_string = msgspec.json.Decoder(str)
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises over bytes that are no JSON, or nested too deeply to be read."""
_TYPES = {"{": "an object", "[": "an array", '"': "a string", "t": "a boolean", "f": "a boolean", "n": "null"}


class ClientGone(Exception):
    """The client went away before its request was over."""


@dataclass(slots=True)
class Body:
    """The top level of a request body; values are undecoded JSON."""

    fields: dict[str, msgspec.Raw]
    model: str
    stream: bool

    def encode_for(self, model: str) -> bytes:
        """The body as bytes, with another model."""
        self.fields["model"] = msgspec.Raw(msgspec.json.encode(model))
        return msgspec.json.encode(self.fields)

    def session(self) -> str | None:
        """What the client says its conversation is: the first of OpenAI's fields for it that is a plain string."""
        return _first_text(self.fields, _SESSION_FIELDS)

    def end_user(self) -> str | None:
        """Whom the client says it asks for, in OpenAI's fields for it or in Anthropic's."""
        found = _first_text(self.fields, _USER_FIELDS)
        if found is None and "metadata" in self.fields:
            with contextlib.suppress(*NOT_JSON):
                return _first_text(_shallow.decode(self.fields["metadata"]), ("user_id",))
        return found

    def check_priority(self) -> None:
        """Hold the engine's scheduling priority to what a client may ask for; lower is earlier, 0 is usual.

        Raises:
            InvalidRequest: it would put the request before others', or behind all.
        """
        if "priority" not in self.fields:
            return
        given = bytes(self.fields["priority"])
        if given != b"null" and not (given.isdigit() and len(given) == 1):
            raise InvalidRequest("the field 'priority' must be a whole number from 0 to 9", param="priority")

    def copy_for(self, model: str) -> bytes:
        """The body as bytes for another model, answered whole: a shadow's."""
        kept = {name: value for name, value in self.fields.items() if name not in _NOT_COPIED}
        return msgspec.json.encode(kept | {"model": msgspec.Raw(msgspec.json.encode(model))})

    def request_usage(self) -> bool:
        """Have the engine end its stream with an event that tells usage; True if the client had asked for that.

        ``stream_options`` of a wrong type is left for the engine to refuse.

        Raises:
            InvalidRequest: ``include_usage`` is no boolean. The engine would read some such values as false, and
                tokens would go uncounted.
        """
        given = bytes(self.fields.get("stream_options", b"null"))
        try:
            options = {} if given == b"null" else _shallow.decode(given)
        except NOT_JSON:
            return True
        if _boolean(options, "include_usage", "stream_options.include_usage"):
            return True
        self.fields["stream_options"] = msgspec.Raw(
            msgspec.json.encode(options | {"include_usage": msgspec.Raw(b"true")})
        )
        return False


async def read_bytes(receive: Any, declared: bytes | None, limit: int) -> bytes:
    """Read a whole body of up to `limit` bytes; `declared` is the client's ``content-length``.

    Raises:
        BodyTooLarge, ClientGone
    """
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise BodyTooLarge(f"the body has {int(declared)} bytes, the limit is {limit}")
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise BodyTooLarge(f"the body is larger than the limit of {limit} bytes")
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def decode(raw: bytes) -> Body:
    """Take a body apart.

    Raises:
        InvalidRequest: it is not a JSON object with a string `model`; the message says where.
    """
    try:
        fields = _shallow.decode(raw)
    except msgspec.ValidationError:
        raise InvalidRequest(f"the body must be a JSON object, but it is {_kind(raw)}", code="invalid_type") from None
    except NOT_JSON as error:
        raise InvalidRequest(f"the body is not valid JSON: {_placed(error, raw)}", code="invalid_json") from None
    if "model" not in fields:
        raise InvalidRequest("the field 'model' is missing", param="model", code="missing_field")
    try:
        model = _string.decode(fields["model"])
    except msgspec.ValidationError:
        found = _kind(bytes(fields["model"]))
        raise InvalidRequest(
            f"the field 'model' must be a string, but it is {found}", param="model", code="invalid_type"
        ) from None
    except NOT_JSON as error:
        raise InvalidRequest(
            f"the field 'model' is not valid JSON: {error}", param="model", code="invalid_json"
        ) from None
    return Body(fields, model, _boolean(fields, "stream", "stream"))


def _first_text(fields: Mapping[str, msgspec.Raw], names: Iterable[str]) -> str | None:
    """The first of these fields that is a string, and not an empty one."""
    for name in names:
        if name in fields and (found := _text(fields[name])):
            return found
    return None


def _text(value: msgspec.Raw) -> str | None:
    try:
        return _string.decode(value)
    except NOT_JSON:
        return None


def _boolean(fields: dict[str, msgspec.Raw], name: str, param: str) -> bool:
    if name not in fields:
        return False
    found = bytes(fields[name])
    if found not in (b"true", b"false", b"null"):
        raise InvalidRequest(
            f"the field {param!r} must be a boolean, but it is {_kind(found)}", param=param, code="invalid_type"
        )
    return found == b"true"


def _placed(error: Exception, raw: bytes) -> str:
    """The decoder's words; of a body that ends too soon it does not say where that is."""
    words = str(error)
    return f"{words} (byte {len(raw)})" if "truncated" in words else words


def _kind(raw: bytes) -> str:
    start = raw.lstrip()[:1].decode("latin-1")
    return _TYPES.get(start, "a number")
