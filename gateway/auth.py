"""Who is asking: API keys, held against the catalog in memory."""

from collections.abc import Mapping
from datetime import UTC, datetime

from gateway.errors import Forbidden, Unauthenticated
from registry.catalog import ApiKey, Catalog, Role
from registry.keys import hash_key

_BEARER = "bearer "


def presented_key(headers: Mapping[str, str]) -> str | None:
    """The key in a request's headers: ``Authorization: Bearer`` as OpenAI's SDK sends it, or ``x-api-key``."""
    authorization = headers.get("authorization", "")
    if authorization[: len(_BEARER)].lower() == _BEARER:
        return authorization[len(_BEARER) :].strip() or None
    return headers.get("x-api-key") or None


def authenticate(catalog: Catalog, headers: Mapping[str, str]) -> ApiKey:
    """The key that a request comes with.

    Raises:
        Unauthenticated: there is none, or it is unknown, revoked or expired.
    """
    presented = presented_key(headers)
    if presented is None:
        raise Unauthenticated("no API key was sent; send it as 'Authorization: Bearer sk-...'", code="missing_api_key")
    key = catalog.keys.get(hash_key(presented))
    if key is None:
        raise Unauthenticated("the API key is not valid; it may be mistyped or revoked")
    if key.expires_at is not None and key.expires_at <= datetime.now(UTC):
        raise Unauthenticated("the API key has expired")
    return key


def require_admin(key: ApiKey) -> None:
    """Let only admins through.

    Raises:
        Forbidden
    """
    if key.role is not Role.ADMIN:
        raise Forbidden("this needs an API key with the role 'admin'")
