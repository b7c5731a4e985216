"""Who is asking, and what they may do: API keys, held against the catalog in memory."""

from collections.abc import Mapping
from datetime import UTC, datetime

from gateway.errors import Forbidden, Unauthenticated
from registry.catalog import ApiKey, Catalog, Scope
from registry.keys import hash_key

_BEARER = b"bearer "

RawHeaders = Mapping[bytes, bytes]
"""A request's headers as ASGI has them, with names in lower case; of several of one name, the last."""


def presented_key(headers: RawHeaders) -> str | None:
    """The key in a request's headers: ``Authorization: Bearer`` as OpenAI's SDK sends it, or ``x-api-key``."""
    authorization = headers.get(b"authorization", b"")
    if authorization[: len(_BEARER)].lower() == _BEARER:
        return authorization[len(_BEARER) :].strip().decode("latin-1") or None
    return headers.get(b"x-api-key", b"").decode("latin-1") or None


def authenticate(catalog: Catalog, headers: RawHeaders) -> ApiKey:
    """The key that a request comes with.

    Raises:
        Unauthenticated: there is none, or it is unknown, revoked, expired, or rotated out.
    """
    presented = presented_key(headers)
    if presented is None:
        raise Unauthenticated("no API key was sent; send it as 'Authorization: Bearer sk-...'", code="missing_api_key")
    held = catalog.key(hash_key(presented))
    if held is None or (held.until is not None and _is_over(held.until)):
        raise Unauthenticated("the API key is not valid; it may be mistyped, revoked or replaced")
    key = held.key
    if key.expires_at is not None and _is_over(key.expires_at):
        raise Unauthenticated("the API key has expired")
    return key


def require(key: ApiKey, scope: Scope) -> None:
    """Let only keys with that right through.

    Raises:
        Forbidden
    """
    if not key.may(scope):
        raise Forbidden(f"this needs an API key with the scope '{scope.value}'")


def _is_over(moment: datetime) -> bool:
    return moment <= datetime.now(UTC)
