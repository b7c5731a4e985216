"""How the errors that routes answer with stand in the OpenAPI document."""

import msgspec
from litestar.datastructures import ResponseHeader
from litestar.openapi.datastructures import ResponseSpec

REFUSALS = {
    400: "A parameter or the body is wrong",
    401: "No API key, or none that is valid",
    403: "The key lacks the right",
    404: "No such thing",
    408: "The body did not come in time",
    409: "It exists, but not in a state that allows this; nothing was changed",
    412: "The deployment is at another revision than `if-match` says; nothing was changed",
    413: "The body is over the limit",
    422: "What was sent can be read, but not be served",
    429: "The key's limit or budget is used up",
    502: "The engine failed while it answered",
    503: "What this needs does not answer now; `retry-after` says when to try again",
    504: "The request's deadline passed",
}
_ALWAYS = (400, 401, 403, 503)
OF_INFERENCE = (*_ALWAYS, 404, 408, 413, 422, 429, 502, 504)

ETAG = ResponseHeader(
    name="etag", documentation_only=True, description="The deployment's revision, in quotes; 0 before the first."
)


class ErrorShape(msgspec.Struct, frozen=True):
    """What went wrong: a sentence, OpenAI's broad word, the field or parameter, and the stable word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(msgspec.Struct, frozen=True):
    """OpenAI's envelope of an error."""

    error: ErrorShape


def refusals(*statuses: int, always: tuple[int, ...] = _ALWAYS) -> dict[int, ResponseSpec]:
    """The errors that a route answers with: those that every guarded route has, and these."""
    return {
        status: ResponseSpec(ErrorEnvelope, generate_examples=False, description=REFUSALS[status])
        for status in sorted({*always, *statuses})
    }
