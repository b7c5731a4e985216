"""API keys: made here, shown once, and known only by their hash from then on."""

import hashlib
import secrets

PREFIX = "sk-ostler-"
_SECRET_BYTES = 32
_HINT_LENGTH = 4


def generate() -> str:
    """A new key with 256 random bits."""
    return PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def hash_key(key: str) -> str:
    """SHA-256 in hex. No salt and no slow hash: a key has 256 random bits, so there is nothing to guess."""
    return hashlib.sha256(key.encode()).hexdigest()


def hint(key: str) -> str:
    """The few last characters by which a person tells keys apart in a list."""
    return "..." + key[-_HINT_LENGTH:]


def new_id() -> str:
    """A key's public id, as it stands in lists and in history."""
    return "key_" + secrets.token_hex(8)
