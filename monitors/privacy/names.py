"""Pseudonyms of sessions and end users: equal for equal names, and all that is kept of them.

Clients put e-mail addresses and account numbers there. Who knows the name finds its pseudonym, and so what is to be
deleted; who reads the database does not find the name.
"""

import hashlib

_LENGTH = 24


def pseudonym(name: str) -> str:
    """What a client's session or user id is kept as: the first 96 bits of its SHA-256, in hex."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_LENGTH]
