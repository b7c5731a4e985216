"""What is wrong with JSON that came from outside, in plain words: which field, and what it must be; never its value."""

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import inspect

_PLACE = re.compile(r" - at (?P<key>`key` in )?`\$\.?(?P<path>[^`]*)`$")
_NAMED = re.compile(r"field `(?P<name>[^`]*)`")
_STEP = re.compile(r"\[[^\]]*\]|[^.\[]+")
_OF_TYPES = ("Expected `", "Invalid enum value", "Integer value out of range", "Number out of range")
_NO_NUL = r"^[^\x00]*$"
_NAMES: dict[type[inspect.Type], str] = {
    inspect.BoolType: "true or false",
    inspect.NoneType: "null",
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.StrType: "a text",
    inspect.ListType: "a list",
    inspect.VarTupleType: "a list",
    inspect.DictType: "an object",
    inspect.StructType: "an object",
    inspect.DateTimeType: "a time as in 2026-01-31T12:00:00Z",
}


def field_of(error: msgspec.ValidationError) -> str | None:
    """The path of the field that is wrong, as ``ostler.rank``; None for the whole."""
    place, named = _PLACE.search(str(error)), _NAMED.search(str(error))
    steps = [step for step in (place and place["path"], named and named["name"]) if step]
    return ".".join(steps) or None


def plain(error: msgspec.ValidationError, kind: Any, whole: str = "it") -> str:
    """What is wrong; `kind` is what the JSON was read as, and `whole` what it is called."""
    words, field, place = str(error), field_of(error), _PLACE.search(str(error))
    if words.startswith("Object missing"):
        return f"the field `{field}` is missing"
    if words.startswith("Object contains unknown"):
        return f"there is no field `{field}`"
    if not words.startswith(_OF_TYPES):  # what a type of ours has refused, in words of ours
        return f"`{field}`: {_PLACE.sub('', words)}" if field else _PLACE.sub("", words)
    found = list(_at(_info(kind), _STEP.findall(field or "")))
    subject = f"`{field}`" if field else whole
    if place and place["key"]:
        subject = f"a name in {subject}"
        found = [each.key_type for each in found if isinstance(each, inspect.DictType)]
    right = _any_of(found)
    return f"{subject} must be {right}" if right else f"{subject} cannot have this value"


def described(kind: Any, field: str) -> str | None:
    """What a field must be if it is said, as ``a whole number from 1 to 100``; None if there is no such field."""
    found = [each for each in _at(_info(kind), _STEP.findall(field)) if not isinstance(each, inspect.NoneType)]
    return _any_of(found)


def _info(kind: Any) -> inspect.Type:
    return _info_of_class(kind) if isinstance(kind, type) else inspect.type_info(kind)


@functools.lru_cache(maxsize=64)
def _info_of_class(kind: type) -> inspect.Type:
    """Kept, as a file may have a million rows that are wrong."""
    return inspect.type_info(kind)


def _at(node: inspect.Type, steps: Sequence[str]) -> Iterator[inspect.Type]:
    """The kinds that there may be at a path."""
    if isinstance(node, inspect.Metadata):
        yield from _at(node.type, steps)
    elif isinstance(node, inspect.UnionType):
        for each in node.types:
            yield from _at(each, steps)
    elif not steps:
        yield node
    elif isinstance(node, inspect.StructType):
        for field in node.fields:
            if field.encode_name == steps[0]:
                yield from _at(field.type, steps[1:])
    elif isinstance(node, inspect.ListType | inspect.VarTupleType):
        yield from _at(node.item_type, steps[1:])
    elif isinstance(node, inspect.DictType):
        yield from _at(node.value_type, steps[1:])


def _any_of(found: Sequence[inspect.Type]) -> str | None:
    """Each kind in words; None if there is none that has some."""
    told = list(dict.fromkeys(words for each in found for words in _words(each)))
    return " or ".join(filter(None, (", ".join(told[:-1]), *told[-1:]))) or None


def _words(node: inspect.Type) -> list[str]:
    if isinstance(node, inspect.LiteralType):
        return [repr(value) for value in node.values]
    if isinstance(node, inspect.EnumType):
        return [repr(each.value) for each in node.cls]
    name = _NAMES.get(type(node))
    if name is None:
        return []
    if isinstance(node, inspect.IntType | inspect.FloatType):
        return [name + _bounds(node)]
    if isinstance(node, inspect.StrType):
        return [name + _length(node, "character") + _pattern(node.pattern)]
    if isinstance(node, inspect.ListType | inspect.VarTupleType):
        return [name + _length(node, "item")]
    return [name + _length(node, "field")] if isinstance(node, inspect.DictType) else [name]


def _bounds(node: inspect.IntType | inspect.FloatType) -> str:
    if node.ge is not None and node.le is not None:
        return f" from {_figure(node.ge)} to {_figure(node.le)}"
    limits = {"at least": node.ge, "above": node.gt, "at most": node.le, "below": node.lt}
    told = [f"{words} {_figure(value)}" for words, value in limits.items() if value is not None]
    return f" that is {' and '.join(told)}" if told else ""


def _figure(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _length(node: inspect.StrType | inspect.ListType | inspect.VarTupleType | inspect.DictType, unit: str) -> str:
    least, most = node.min_length or 0, node.max_length
    if most is None:
        return f" of at least {least} {unit}{'s' * (least != 1)}" if least else ""
    many = f"{unit}{'s' * (most != 1)}"
    if least == most:
        return f" of {most} {many}"
    return f" of {least} to {most} {many}" if least else f" of at most {most} {many}"


def _pattern(pattern: str | None) -> str:
    if pattern is None:
        return ""
    return " without the character NUL" if pattern == _NO_NUL else f" that matches {pattern}"
