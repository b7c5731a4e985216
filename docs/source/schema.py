"""What the OpenAPI document says of values, in words; shapes are linked to where they are told."""

from collections.abc import Iterator
from typing import Any

from docs.source import markdown

SHAPES_PAGE = "api-shapes.md"
_KINDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}
_FORMATS = {"date-time": "time (ISO 8601)", "binary": "bytes"}
_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "minLength": "at least this many characters:",
    "maxLength": "at most this many characters:",
    "minItems": "at least this many:",
    "maxItems": "at most this many:",
}
_LARGEST = 2**31 - 1
"""Bounds from here on say how a number is stored, and nothing that a reader asks for."""
_GENERIC = ("Page_", "ListShape_")

Json = dict[str, Any]


class Shapes:
    """The document's named shapes."""

    def __init__(self, document: Json) -> None:
        self._all: Json = document["components"]["schemas"]

    def named(self) -> Iterator[tuple[str, Json]]:
        """Those that have a section: all but pages and lists of others."""
        return ((name, shape) for name, shape in sorted(self._all.items()) if not name.startswith(_GENERIC))

    def words(self, value: Json) -> str:
        """What a value may be, such as `whole number, at least 1, or null`."""
        alternatives = value.get("anyOf") or value.get("oneOf")
        if alternatives:
            return self._with_limits(" or ".join(dict.fromkeys(map(self.words, alternatives))), value)
        if "$ref" in value:
            return self._link(value["$ref"].rpartition("/")[2])
        if "enum" in value:
            return " or ".join(map(markdown.code, value["enum"]))
        if "const" in value:
            return markdown.code(value["const"])
        return self._with_limits(self._kind(value), value)

    def _kind(self, value: Json) -> str:
        kind = value.get("type")
        if kind == "array":
            return f"list of {self.words(value['items'])}" if value.get("items") else "list"
        if kind == "object":
            inner = value.get("additionalProperties")
            return f"object of {self.words(inner)}" if isinstance(inner, dict) and inner else "object"
        return _FORMATS.get(value.get("format", ""), _KINDS[kind] if kind else "anything")

    def _with_limits(self, words: str, value: Json) -> str:
        given = {name: value[name] for name in _LIMITS if abs(value.get(name, _LARGEST)) < _LARGEST}
        limits = [f"{_LIMITS[name]} {limit:,.15g}" for name, limit in given.items()]
        return markdown.listed([words, *limits])

    def _link(self, name: str) -> str:
        if name.startswith(_GENERIC):
            (items,) = (part["items"] for key, part in self._all[name]["properties"].items() if key == "data")
            return f"page of {self.words(items)}"
        return f"[{name}]({SHAPES_PAGE}#{name.lower()})"

    def fields(self, shape: Json) -> str:
        """A table of an object's fields."""
        needed = set(shape.get("required", ()))
        rows = [
            (f"`{name}`", self.words(value), note(value, needed=name in needed))
            for name, value in shape["properties"].items()
        ]
        return markdown.table(("field", "value", "note"), rows)


def note(value: Json, *, needed: bool) -> str:
    """What a field or parameter is for, and what holds where it is left out."""
    said: str = value.get("description", "")
    if needed:
        return said
    default = value.get("default")
    is_short = isinstance(default, str | int | float) and default != ""
    words = str(default).lower() if isinstance(default, bool) else default
    left_out = f"May be left out: `{words}`." if is_short else "May be left out."
    return f"{said.rstrip('.')}. {left_out}" if said else left_out
