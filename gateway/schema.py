"""The OpenAPI document. The inference endpoints are raw ASGI handlers, so their entries are written here."""

from typing import Any

import msgspec
from litestar import Request, Router
from litestar.exceptions import NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from gateway.admin import BODIES
from gateway.feedback import NewFeedback
from gateway.refusals import OF_INFERENCE, REFUSALS
from gateway.tuning.bodies import NewJob
from gateway.tuning.upload import FORM
from registry.policies import RetrainRule, RolloutRule

_INFERENCE = {
    "/v1/chat/completions": "Chat with an adapter or the base model",
    "/v1/completions": "Complete a text",
    "/v1/responses": "OpenAI's Responses API",
    "/v1/messages": "Anthropic's Messages API",
}
_BODY_MAY_BE_MISSING = (
    "/admin/v1/adapters/{name}/rollback",
    "/admin/v1/adapters/{name}/pause",
    "/admin/v1/adapters/{name}/resume",
    "/admin/v1/adapters/{name}/approve",
    "/admin/v1/adapters/{name}/reject",
    "/admin/v1/adapters/{name}/policy/check",
    "/admin/v1/freeze",
    "/admin/v1/replicas/{replica_id}/wake",
    "/admin/v1/adapters/{name}/evaluations",
    "/admin/v1/keys/{key_id}/rotate",
    "/admin/v1/webhooks/{webhook_id}/rotate",
)
_UPLOADS = ("/admin/v1/adapters/{name}/versions", "/admin/v1/adapters/{name}/golden-sets")


class SchemaPlugin(JsonRenderPlugin):
    """Serves the document at /schema and /schema/openapi.json."""

    def __init__(self) -> None:
        super().__init__(path=["/", "/openapi.json"])

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The generated document with what the framework cannot know: exact bodies, uploads, inference endpoints."""
        upload = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        for path in _UPLOADS:
            openapi_schema["paths"][path]["post"]["requestBody"] = {"required": True, "content": upload}
        form = {"multipart/form-data": {"schema": FORM}}
        openapi_schema["paths"]["/v1/files"]["post"]["requestBody"] = {"required": True, "content": form}
        for path in _BODY_MAY_BE_MISSING:
            for operation in openapi_schema["paths"][path].values():
                if "requestBody" in operation:
                    operation["requestBody"]["required"] = False
        # As the decoder itself describes what it takes; the framework leaves out bounds and unknown fields, and takes
        # a tuple's items for one kind or any other.
        _, exact = msgspec.json.schema_components(
            (*BODIES, NewFeedback, NewJob, RetrainRule, RolloutRule), ref_template="#/components/schemas/{name}"
        )
        openapi_schema["components"]["schemas"].update(exact)
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
        openapi_router=Router("/schema", route_handlers=[], include_in_schema=False, before_request=_require_document),
        components=Components(security_schemes={"key": SecurityScheme(type="http", scheme="bearer")}),
        security=[{"key": []}],
    )


def _require_document(request: Request[Any, Any, Any]) -> None:
    """Other paths below /schema are none; the framework would answer them with a page of HTML."""
    if request.path_params:
        raise NotFoundException


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
    error = {"schema": {"$ref": "#/components/schemas/ErrorEnvelope"}}
    refused = {
        str(status): {"description": REFUSALS[status], "content": {"application/json": error}}
        for status in sorted(OF_INFERENCE)
    }
    answer = {
        "description": "The engine's answer, or a stream of events",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    }
    return {
        "summary": summary,
        "operationId": "post" + path.title().replace("/", ""),
        "tags": ["Inference"],
        "security": [{"key": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": answer, **refused},
    }
