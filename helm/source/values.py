"""The values with their explanations, read from the lines of values.yaml, because a YAML parser drops comments."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml  # type: ignore[import-untyped]


@dataclass(frozen=True, slots=True)
class Value:
    """A value: its path with dots, its default, and the comment above it; the comment is empty if there is none."""

    path: str
    default: Any
    meaning: str


def explained(values: str) -> list[Value]:
    """Every value that is no group of others, in the file's order."""
    comments = _comments(values)
    return [Value(path, default, comments.get(path, "")) for path, default in _leaves(yaml.safe_load(values), "")]


def _leaves(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """A map of the operator's own (labels, resources) is one value: only groups have keys that are ours."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value and key not in {"resources", "labels"}:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value


def _comments(values: str) -> dict[str, str]:
    found: dict[str, str] = {}
    above: list[str] = []
    keys: list[tuple[int, str]] = []  # of the groups around a line, with their indentation
    for line in values.splitlines():
        bare = line.strip()
        if bare.startswith("# "):
            above.append(bare.removeprefix("# "))
            continue
        if bare and not bare.startswith("-") and ":" in bare:
            indent = len(line) - len(line.lstrip())
            keys = [entry for entry in keys if entry[0] < indent] + [(indent, bare.partition(":")[0])]
            found[".".join(key for _, key in keys)] = " ".join(above)
        above = []
    return found
