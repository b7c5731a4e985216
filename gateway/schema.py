"""The OpenAPI document. The inference endpoints are raw ASGI handlers, so their entries are written here."""

from typing import Any

from litestar import Request
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

_INFERENCE = {
    "/v1/chat/completions": "Chat with an adapter or the base model",
    "/v1/completions": "Complete a text",
    "/v1/responses": "OpenAI's Responses API",
    "/v1/messages": "Anthropic's Messages API",
}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_REFUSALS = {
    "400": "The body is malformed, or the engine refuses it",
    "401": "No API key, or none that is valid",
    "404": "No such model for this key",
    "413": "The body is over the limit",
    "503": "No engine can take the request now",
    "504": "The request's deadline passed",
}


class SchemaPlugin(JsonRenderPlugin):
    """Serves the document at /schema and /schema/openapi.json."""

    def __init__(self) -> None:
        super().__init__(path=["/", "/openapi.json"])

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The generated document, with our errors in place of the framework's, and the inference endpoints."""
        for operations in openapi_schema["paths"].values():
            for operation in operations.values():
                for status, answer in operation.get("responses", {}).items():
                    if status >= "400":
                        answer["content"] = _json(_ERROR)
        upload = {"schema": {"type": "string", "format": "binary"}}
        push = openapi_schema["paths"]["/admin/v1/adapters/{name}/versions"]["post"]
        push["requestBody"] = {"required": True, "content": {"application/octet-stream": upload}}
        push["responses"]["200"] = {**push["responses"]["201"], "description": "The adapter has this content already"}
        paths = {path: {"post": _operation(path, summary)} for path, summary in _INFERENCE.items()}
        return super().render(request, {**openapi_schema, "paths": {**paths, **openapi_schema["paths"]}})


def openapi_config(version: str) -> OpenAPIConfig:
    """How the document is made."""
    return OpenAPIConfig(
        title="Ostler",
        version=version,
        description="Many LoRA adapters of one base model behind one OpenAI-compatible endpoint.",
        path="/schema",
        render_plugins=[SchemaPlugin()],
        components=Components(security_schemes={"key": SecurityScheme(type="http", scheme="bearer")}),
        security=[{"key": []}],
    )


def _operation(path: str, summary: str) -> dict[str, Any]:
    body = {
        "type": "object",
        "required": ["model"],
        "properties": {
            "model": {
                "type": "string",
                "description": "An adapter, a version of it as `name@7`, or the base model.",
            },
            "stream": {"type": "boolean", "default": False},
        },
        "additionalProperties": True,
    }
    refusals = {status: {"description": words, "content": _json(_ERROR)} for status, words in _REFUSALS.items()}
    answer = {"description": "The engine's answer, or a stream of events", "content": _json({"type": "object"})}
    return {
        "summary": summary,
        "operationId": "post" + path.title().replace("/", ""),
        "tags": ["Inference"],
        "security": [{"key": []}],
        "requestBody": {"required": True, "content": _json(body)},
        "responses": {"200": answer, **refusals},
    }


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
