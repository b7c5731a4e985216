"""JSON bodies of ordinary routes, read strictly: a number in quotes is a string, and is refused where one is not."""

import re
from typing import Any

import msgspec
from litestar import Request
from litestar.datastructures import State

from gateway.body import NOT_JSON
from gateway.errors import InvalidRequest

_PLACE = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`$")
_NAMED_FIELD = re.compile(r"field `(?P<name>[^`]+)`")


class StrictRequest(Request[Any, Any, State]):
    """A request whose body is read as what the handler's `data` is annotated with.

    The framework would read it as plain JSON and convert that leniently.
    """

    async def json(self) -> Any:
        """The body as the handler takes it.

        Raises:
            InvalidRequest: it is not that; the message says where.
        """
        field = self.route_handler.parsed_fn_signature.parameters["data"]
        return decode_strictly(await self.body(), field.annotation)


def decode_strictly(content: bytes, kind: Any) -> Any:
    """Read JSON as `kind`.

    Raises:
        InvalidRequest: it is not JSON, or something else; `param` names the field.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise wrong_body(error) from None
    except NOT_JSON as error:
        words = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidRequest(f"the body is not valid JSON: {words}", code="invalid_json") from None


def wrong_body(error: msgspec.ValidationError) -> InvalidRequest:
    """What the decoder found wrong, with the path of the field as `param`."""
    place = _PLACE.search(str(error))
    words = _PLACE.sub("", str(error))
    named = _NAMED_FIELD.search(words)
    steps = [step for step in (place["path"] if place else None, named["name"] if named else None) if step]
    where = f"the body, at '{place['path']}'" if place and place["path"] else "the body"
    return InvalidRequest(f"{where}: {words}", param=".".join(steps) or None)
