"""A client's JSON body, read one level deep: what the gateway must know is taken out, the rest stays as it came."""

from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.errors import BodyTooLarge, InvalidRequest

_shallow = msgspec.json.Decoder(dict[str, msgspec.Raw])
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

    def request_usage(self) -> bool:
        """Have the engine end its stream with an event that tells usage; True if the client had asked for that.

        ``stream_options`` of a wrong type is left for the engine to refuse.
        """
        options: dict[str, Any] = {}
        try:
            options = msgspec.json.decode(self.fields.get("stream_options", b"null"), type=dict[str, Any] | None) or {}
        except msgspec.ValidationError:
            return True
        if options.get("include_usage"):
            return True
        self.fields["stream_options"] = msgspec.Raw(msgspec.json.encode(options | {"include_usage": True}))
        return False


async def read_bytes(receive: Any, declared: str | None, limit: int) -> bytes:
    """Read a whole body of up to `limit` bytes; `declared` is the client's ``content-length``.

    Raises:
        BodyTooLarge, ClientGone
    """
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise BodyTooLarge(f"the body has {declared} bytes, the limit is {limit}")
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
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if "model" not in fields:
        raise InvalidRequest("the field 'model' is missing", param="model", code="missing_field")
    try:
        model = msgspec.json.decode(fields["model"], type=str)
    except msgspec.ValidationError:
        found = _kind(bytes(fields["model"]))
        raise InvalidRequest(
            f"the field 'model' must be a string, but it is {found}", param="model", code="invalid_type"
        ) from None
    stream = bytes(fields.get("stream", b"false")) == b"true"
    return Body(fields, model, stream)


def _kind(raw: bytes) -> str:
    start = raw.lstrip()[:1].decode("latin-1")
    return _TYPES.get(start, "a number")
