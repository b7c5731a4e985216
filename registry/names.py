"""The names that adapters, versions and engines go by, and how a client's `model` is read."""

import re
from dataclasses import dataclass

from registry.errors import InvalidName, InvalidValue

ADAPTER_PATTERN = r"[a-z0-9][a-z0-9._-]{0,62}"
_ADAPTER = re.compile(ADAPTER_PATTERN)
_PINNED = re.compile(rf"(?P<adapter>{ADAPTER_PATTERN})@(?P<number>[1-9][0-9]{{0,8}})(?:-(?P<digest>[0-9a-f]{{8}}))?")
DIGEST_PREFIX = 8


@dataclass(frozen=True, slots=True)
class PinnedName:
    """A `model` that names one version: ``support@7`` or ``support@7-1f3a9c2e``."""

    adapter: str
    number: int
    digest_prefix: str | None


def check_adapter_name(name: str, bases: frozenset[str] = frozenset()) -> str:
    """Return `name` if an adapter may have it.

    Raises:
        InvalidName: it breaks the pattern, or a base model has it already.
    """
    if not is_adapter_name(name):
        shown = name if len(name) <= 80 else name[:80] + "..."
        raise InvalidName(
            f"the adapter name {shown!r} is not allowed: 1 to 63 lower-case letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit",
            param="name",
        )
    if name in bases:
        raise InvalidName(f"{name!r} is the name of a base model; an adapter needs another name", param="name")
    return name


def is_adapter_name(name: str) -> bool:
    """Whether an adapter could have this name."""
    return _ADAPTER.fullmatch(name) is not None


def check_text(text: str, param: str, longest: int) -> str:
    """Return `text` if every database can keep it.

    Raises:
        InvalidValue: it is too long, or holds a NUL or a lone surrogate.
    """
    if len(text) > longest:
        raise InvalidValue(f"{param} may have {longest} characters at most, not {len(text)}", param=param)
    if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in text):
        raise InvalidValue(f"{param} holds a character that cannot be stored", param=param)
    return text


def engine_name(adapter: str, number: int, digest: str) -> str:
    """What the engine knows a version as; it holds the content's digest, so it never stands for other weights."""
    return f"{adapter}@{number}-{digest[:DIGEST_PREFIX]}"


def parse_pinned(model: str) -> PinnedName | None:
    """Read a `model` that names one version; None if it does not have that form."""
    match = _PINNED.fullmatch(model)
    if match is None:
        return None
    return PinnedName(match["adapter"], int(match["number"]), match["digest"])
