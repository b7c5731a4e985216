"""Whether an answer has the right form (JSON, a JSON Schema, a regular expression), and what JSON answers hold.

Patterns and schemas come from operators, answers from models, and together they could keep a matcher busy for ever. So
patterns are those of Rust's `regex`, which pydantic carries: no look-around and no backreferences, a bounded size, and
a time that grows with the length of the answer and never faster. A schema may not send the monitor to another address,
and references that multiply are followed for so many steps and no further. An answer beyond these limits has no score.
"""

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from pydantic import StringConstraints, TypeAdapter, ValidationError
from pydantic_core import SchemaError as PatternError

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

LONGEST_ANSWER = 20_000  # characters, for patterns and schemas
LONGEST_PATTERN = 1_000  # characters
MOST_PARTS = 2_000  # objects, lists and booleans in a schema
MOST_STEPS = 10_000  # keywords of a schema that even the empty object has to be held against
_MOST_STEPS_OF_AN_ANSWER = 100_000

NOT_JSON = object()  # where a text is no JSON: None would be the value of `null`

_steps: ContextVar[Iterator[int]] = ContextVar("steps")


class _TooManySteps(Exception):
    """A schema sends its validator round and round."""


def json_value(text: str) -> Any:
    """The JSON value that `text` is, by RFC 8259; `NOT_JSON` if it is none or nests too deeply to be read."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return NOT_JSON


def valid_json(answer: str) -> float:
    """1 if the whole answer is one JSON value, with no fence around it and no word beside it."""
    return float(json_value(answer) is not NOT_JSON)


def json_schema(answer: str, schema: dict[str, Any]) -> float | None:
    """1 if the answer is JSON that meets the schema; None for an answer that is too long or too deep to tell."""
    from referencing.exceptions import Unresolvable

    if len(answer) > LONGEST_ANSWER:
        return None
    value = json_value(answer)
    if value is NOT_JSON:
        return 0.0
    try:
        return float(_meets(value, schema, _MOST_STEPS_OF_AN_ANSWER))
    except (RecursionError, Unresolvable, _TooManySteps):
        return None


def json_equality(answer: str, reference: str, fields: tuple[str, ...] = ()) -> float | None:
    """The share of fields, however deep, that are equal; one that only one side has is not. None without reference."""
    wanted, given = json_value(reference), json_value(answer)
    if wanted is NOT_JSON:
        return None
    if given is NOT_JSON:
        return 0.0
    expected, found = dict(_leaves(wanted, fields)), dict(_leaves(given, fields))
    paths = expected.keys() | found.keys()
    equal = sum(path in expected and path in found and _same(expected[path], found[path]) for path in paths)
    return equal / len(paths) if paths else None


def json_field(text: str, field: str) -> str | None:
    """What a field at the top of a JSON object says, as text; None without the field, or if it is null."""
    value = json_value(text)
    found = value.get(field) if isinstance(value, dict) else None
    return found if found is None or isinstance(found, str) else msgspec.json.encode(found).decode()


def regex(answer: str, pattern: str, *, whole: bool = True) -> float | None:
    """1 if the pattern matches the whole answer, or any part of it; None for an answer that is too long to tell."""
    if len(answer) > LONGEST_ANSWER:
        return None
    return float(_matches(_whole(pattern) if whole else pattern, answer))


def check_pattern(pattern: str) -> None:
    """Raise ValueError, saying what is wrong, unless `pattern` is a regular expression within the limits."""
    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(f"a pattern has at most {LONGEST_PATTERN} characters, not {len(pattern)}")
    try:
        _compiled(pattern)
        _compiled(_whole(pattern))
    except PatternError as error:
        told = str(error).strip().rpartition("\n")[2].rpartition("rror: ")[2]
        raise ValueError(f"not a regular expression that can be used: {told[:200]}") from None


def check_schema(schema: dict[str, Any]) -> None:
    """Raise ValueError, saying what is wrong, unless `schema` is a JSON Schema that can be judged by itself."""
    from jsonschema import SchemaError
    from referencing.exceptions import Unresolvable

    try:
        if next(islice(_parts(schema), MOST_PARTS, None), None) is not None:
            raise ValueError(f"a schema has at most {MOST_PARTS} objects, lists and booleans in it")
        for name, value in _entries(schema):
            _check_entry(name, value)
        _validator(msgspec.json.encode(schema)).check_schema(schema)
        _check_references(schema)
    except SchemaError as error:
        raise ValueError(f"not a JSON Schema: {error.json_path}: {error.message[:200]}") from None
    except Unresolvable:
        raise ValueError("the schema refers to a part of itself that is not there") from None
    except RecursionError:
        raise ValueError("the schema refers to itself without end, or nests too deeply") from None
    except _TooManySteps:
        raise ValueError(f"the schema's references multiply: {{}} takes more than {MOST_STEPS} steps") from None


def _check_references(schema: dict[str, Any]) -> None:
    """Raise Unresolvable, RecursionError or _TooManySteps for a reference to nothing, or to itself, or to too much."""
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT202012

    resolver = Registry().resolver_with_root(Resource.from_contents(schema, default_specification=DRAFT202012))
    for name, value in _entries(schema):
        if name == "$ref":
            resolver.lookup(value)
    _meets({}, schema, MOST_STEPS)


def _check_entry(name: str, value: Any) -> None:
    if name in {"$ref", "$dynamicRef"} and isinstance(value, str) and not value.startswith("#"):
        raise ValueError(f"{name} may only point into the schema itself: it begins with #")
    if name == "$schema" and not isinstance(value, str):
        raise ValueError("$schema must be a text")
    if name == "patternProperties":
        raise ValueError("patternProperties cannot be used here")
    if name == "pattern" and isinstance(value, str):
        check_pattern(value)


def _entries(schema: Any) -> Iterator[tuple[str, Any]]:
    for part in _parts(schema):
        if isinstance(part, dict):
            yield from part.items()


def _parts(schema: Any) -> Iterator[Any]:
    """Each object, list and boolean; true and false are schemas, too."""
    if isinstance(schema, dict | list | bool):
        yield schema
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _parts(inner)


def _leaves(value: Any, fields: tuple[str, ...] = (), path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """Each value that holds no other, with the way to it; an empty object or list is such a value."""
    if isinstance(value, dict | list) and value:
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if path or not fields or name in fields:
                yield from _leaves(inner, fields, (*path, name))
    elif path or not fields:
        yield path, value


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal in JSON, where 1 is 1.0 but true is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _meets(value: Any, schema: dict[str, Any], most_steps: int) -> bool:
    """Whether the value meets the schema; raises _TooManySteps if it takes more keywords to tell."""
    reset = _steps.set(iter(range(most_steps)))
    try:
        return bool(_validator(msgspec.json.encode(schema)).is_valid(value))
    finally:
        _steps.reset(reset)


def _counted(keyword: Callable[..., Any]) -> Callable[..., Any]:
    """The keyword's rule, as one step of those that there are."""

    def rule(*arguments: Any) -> Any:
        if next(_steps.get(), None) is None:
            raise _TooManySteps
        return keyword(*arguments)

    return rule


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> "Validator":
    """A validator whose patterns and steps are bounded, for the draft that the schema names, else 2020-12."""
    from jsonschema import Draft202012Validator
    from jsonschema import ValidationError as Unmet
    from jsonschema.validators import extend, validator_for
    from referencing import Registry

    def pattern(_: Any, wanted: str, instance: Any, __: Any) -> Iterator[Unmet]:
        if isinstance(instance, str) and not _matches(wanted, instance):
            yield Unmet("the text does not match the pattern")

    content = msgspec.json.decode(schema)
    named = validator_for(content, default=Draft202012Validator)
    rules = {**named.VALIDATORS, "pattern": pattern}
    kind = extend(named, {name: _counted(rule) for name, rule in rules.items()})
    return kind(content, registry=Registry())


def _whole(pattern: str) -> str:
    return rf"\A(?:{pattern})\z"


def _matches(pattern: str, text: str) -> bool:
    try:
        _compiled(pattern).validate_python(text)
    except ValidationError:
        return False
    return True


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> TypeAdapter[str]:
    return TypeAdapter(Annotated[str, StringConstraints(pattern=pattern)])
