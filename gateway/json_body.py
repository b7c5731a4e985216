"""JSON bodies of ordinary routes, read strictly: a number in quotes is a string, and is refused where one is not."""

from typing import Any

import msgspec
from litestar import Request
from litestar.datastructures import State

from gateway.body import NOT_JSON
from gateway.errors import InvalidRequest
from registry.wording import field_of, plain


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
        raise InvalidRequest(plain(error, kind, "the body"), param=field_of(error)) from None
    except NOT_JSON as error:
        words = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidRequest(f"the body is not valid JSON: {words}", code="invalid_json") from None
