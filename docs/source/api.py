"""The reference of the HTTP API, from the document that the gateway serves at `/schema`."""

import asyncio
import functools
import tempfile
from collections.abc import Iterator
from typing import Any

import httpx
from litestar import Litestar

from docs.source import markdown
from docs.source.schema import SHAPES_PAGE, Json, Shapes, note
from gateway.app import create_app
from gateway.inference import PATHS
from gateway.refusals import REFUSALS
from gateway.settings import GatewaySettings

_TAGS = ("Inference", "Feedback", "Files", "Fine-tuning", "Adapters", "Deployments", "Keys")
"""What comes first; the others follow by their names, and operations last."""
_LAST = "Operations"
_WHO = {
    "admin_guard": "a key with the scope `admin`",
    "tuning_guard": "a key with the scope `tuning` or `admin`",
    "models_guard": "a key with the scope `inference` or `tuning`",
    "feedback_guard": "a key with the scope `feedback`, for its own requests, or `admin`",
    "metrics_guard": "anyone on the gateway's own machine, else a key with the scope `metrics` or `admin`",
}
_INTRODUCTION = f"""\
The gateway serves this document as OpenAPI at `/schema`, without a key. Keys go in `authorization: Bearer sk-...`.
Bodies are JSON. A field that is not named here is refused with 400, but in requests to models, whose other fields are
the engine's. What objects hold is in [shapes]({SHAPES_PAGE}).

Every answer has `x-request-id`; answers of models have `x-ostler-adapter`, `x-ostler-version` and `x-ostler-variant` as
well. A list that goes on has `has_more`, and `before` or `after` takes up where it ended.

An error is OpenAI's envelope: `message` is a sentence for people, `code` a stable word for programs, `param` the field.
What a key may not see is answered as if it were not there (404).

```json
{{"error": {{"message": "the model 'suport' does not exist for this API key; there is: ostler-tiny, support",
           "type": "invalid_request_error", "param": "model", "code": "model_not_found"}}}}
```"""


@functools.cache
def _app() -> Litestar:
    with tempfile.TemporaryDirectory() as folder:
        return create_app(GatewaySettings(home=folder, cache=folder, base="base", pools=()))


@functools.cache
def document() -> Json:
    """The OpenAPI document, as a gateway answers with it."""
    return asyncio.run(_ask())


async def _ask() -> Json:
    transport = httpx.ASGITransport(app=_app())  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        answer = await client.get("/schema")
    found: Json = answer.raise_for_status().json()
    return found


def page() -> str:
    """The page of all operations."""
    shapes, guards = Shapes(document()), dict(_guards())
    sections: dict[str, list[str]] = {}
    for path, operations in sorted(document()["paths"].items()):
        for method, operation in operations.items():
            part = _operation(f"{method.upper()} {path}", operation, guards.get((path, method.upper()), ""), shapes)
            sections.setdefault(operation["tags"][0], []).append(part)
    parts = [f"## {tag}\n\n" + "\n\n".join(sections[tag]) for tag in sorted(sections, key=_order)]
    errors = markdown.table(("status", "meaning"), [(str(status), said) for status, said in REFUSALS.items()])
    purpose = "Every path of the gateway: who may call it, what it takes, and what it answers."
    return markdown.page("HTTP API", purpose, _INTRODUCTION, f"## Errors\n\n{errors}", *parts)


def shapes_page() -> str:
    """The page of what bodies and answers hold."""
    shapes = Shapes(document())
    parts = [_shape(name, shape, shapes) for name, shape in shapes.named()]
    purpose = "What the bodies and answers of the [HTTP API](api.md) hold, field by field."
    return markdown.page("Shapes of the HTTP API", purpose, *parts)


def _order(tag: str) -> tuple[int, str]:
    return (len(_TAGS) + (tag == _LAST), tag) if tag not in _TAGS else (_TAGS.index(tag), tag)


def _guards() -> Iterator[tuple[tuple[str, str], str]]:
    """Who may call each route, by the guards that it has."""
    yield from (((path, "POST"), "a key with the scope `inference`") for path in PATHS)
    for route in _app().routes:
        path = getattr(route, "path_format", route.path)
        for handler in getattr(route, "route_handlers", ()):
            names = [_WHO[_name(guard)] for guard in handler.resolve_guards()]
            yield from (((path, method), " and ".join(names) or "anyone") for method in handler.http_methods)


def _name(guard: Any) -> str:
    name: str = getattr(guard, "func", guard).__name__
    return name


def _operation(call: str, operation: Json, who: str, shapes: Shapes) -> str:
    parts = [f"### {call}", f"{operation['summary']}.", markdown.prose(operation.get("description", ""))]
    parts.append(f"Who: {who}.")
    if rows := [_parameter(one, shapes) for one in operation.get("parameters", ())]:
        parts.append(markdown.table(("parameter", "in", "value", "note"), rows))
    parts += [_body(operation["requestBody"], shapes)] if "requestBody" in operation else []
    answers = [f"{status}: {_answer(said, shapes)}" for status, said in operation["responses"].items() if status < "4"]
    refusals = [status for status in operation["responses"] if status >= "4"]
    parts.append("Answers: " + "; ".join(sorted(answers)) + ".")
    parts += ["Errors: " + markdown.listed(refusals) + "."] if refusals else []
    return "\n\n".join(filter(None, parts))


def _parameter(one: Json, shapes: Shapes) -> tuple[str, ...]:
    needed = one["required"] or one["in"] == "path"
    said = note({"description": one.get("description", ""), **one["schema"]}, needed=needed)
    return f"`{one['name']}`", one["in"], shapes.words(one["schema"]), said


def _body(body: Json, shapes: Shapes) -> str:
    ((kind, content),) = body["content"].items()
    optional = "" if body.get("required") else ", which may be left out"
    if content["schema"].get("properties"):
        others = "\n\nOther fields go on to the engine as they are." * bool(
            content["schema"].get("additionalProperties")
        )
        return f"Body (`{kind}`{optional}):\n\n{shapes.fields(content['schema'])}{others}"
    return f"Body (`{kind}`{optional}): {shapes.words(content['schema'])}."


def _answer(said: Json, shapes: Shapes) -> str:
    content = said.get("content", {})
    return " or ".join(f"{shapes.words(part['schema'])} (`{kind}`)" for kind, part in content.items()) or "nothing"


def _shape(name: str, shape: Json, shapes: Shapes) -> str:
    parts = [f"## {name}", markdown.prose(shape.get("description", ""))]
    parts.append(shapes.fields(shape) if shape.get("properties") else f"One of: {shapes.words(shape)}.")
    return "\n\n".join(filter(None, parts))
