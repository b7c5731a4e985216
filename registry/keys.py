"""API keys: made here, shown once, and known only by their hash from then on."""

import hashlib
import secrets

from registry.errors import InvalidValue

PREFIX = "sk-ostler-"
_SECRET_BYTES = 32
_HINT_LENGTH = 4
_SHORTEST, _LONGEST = 32, 512
_FEWEST_DIFFERENT = 8
"""Of a random secret's characters, even of one in hex, hardly ever so few are different."""


def generate() -> str:
    """A new key with 256 random bits."""
    return PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def hash_key(key: str) -> str:
    """SHA-256 in hex. No salt and no slow hash: a key has 256 random bits, so there is nothing to guess."""
    return hashlib.sha256(key.encode()).hexdigest()


def check_secret(secret: str) -> None:
    """Require of a secret that was made elsewhere what `generate` gives: nothing to guess, nothing lost on its way.

    Raises:
        InvalidValue: it is too short, of too few different characters, or has some that no header carries.
    """
    if not (secret.isascii() and secret.isprintable()) or " " in secret:
        raise InvalidValue("the secret must be of ASCII letters, digits and signs, without spaces", param="secret")
    if not _SHORTEST <= len(secret) <= _LONGEST or len(set(secret)) < _FEWEST_DIFFERENT:
        raise InvalidValue(
            f"the secret can be guessed: it must be of {_SHORTEST} to {_LONGEST} random characters", param="secret"
        )


def hint(key: str) -> str:
    """The few last characters by which a person tells keys apart in a list."""
    return "..." + key[-_HINT_LENGTH:]


def new_id() -> str:
    """A key's public id, as it stands in lists and in history."""
    return "key_" + secrets.token_hex(8)
