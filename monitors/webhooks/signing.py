"""Signatures by which a receiver knows that what it got is from here: the Standard Webhooks specification's, version 1.

HMAC-SHA256 of ``id.timestamp.body`` under a shared secret; https://www.standardwebhooks.com has the specification, and
libraries that verify it in most languages.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime

_PREFIX = "whsec_"
_KEY_BYTES = 32


def new_secret() -> str:
    """A secret as receivers' libraries take it: ``whsec_`` and 32 random bytes in base64."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()


def signed_headers(id: str, moment: datetime, body: bytes, keys: Sequence[str]) -> dict[str, str]:
    """The headers of one attempt: the message's id, when it is sent, and a signature by each of the secrets.

    The moment is of the attempt, so that a receiver can refuse what somebody else sends again much later.
    """
    timestamp = str(int(moment.timestamp()))
    signed = f"{id}.{timestamp}.".encode() + body
    return {
        "webhook-id": id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(_signature(signed, secret) for secret in keys),
    }


def _signature(signed: bytes, secret: str) -> str:
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
