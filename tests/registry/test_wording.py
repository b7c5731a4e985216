"""What is wrong with JSON, in plain words."""

from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from registry.wording import described, field_of, plain


class Color(StrEnum):
    """One of a few."""

    RED = "red"
    BLUE = "blue"


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """Something inside."""

    name: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00]*$")]
    kind: Literal["none", "nf4"] = "none"


class Careful(msgspec.Struct):
    """Something that says by itself what is wrong."""

    pattern: str

    def __post_init__(self) -> None:
        """Look at it."""
        if self.pattern == "(":
            raise ValueError("the group is not closed")


class Whole(msgspec.Struct, forbid_unknown_fields=True):
    """Something that is read."""

    rank: Literal["auto"] | Annotated[int, Meta(ge=1, le=512)] = "auto"
    beta: Annotated[float, Meta(gt=0, le=10)] = 1.0
    share: Annotated[float, Meta(ge=0.01, le=0.5)] = 0.1
    parts: Annotated[list[Part], Meta(max_length=2)] | None = None
    labels: Annotated[dict[Annotated[str, Meta(min_length=1)], int], Meta(max_length=16)] = {}
    is_on: bool = False
    color: Color = Color.RED
    whole: frozenset[int] = frozenset()
    pair: Annotated[tuple[float, ...], Meta(min_length=2, max_length=2)] = (0.0, 1.0)


WRONG: list[tuple[Any, str | None, str]] = [
    ([], None, "the body must be an object"),
    ({"rnak": 1}, "rnak", "there is no field `rnak`"),
    ({"parts": [{}]}, "parts[0].name", "the field `parts[0].name` is missing"),
    ({"rank": "SECRET"}, "rank", "`rank` must be 'auto' or a whole number from 1 to 512"),
    ({"rank": 0}, "rank", "`rank` must be 'auto' or a whole number from 1 to 512"),
    ({"rank": 1.5}, "rank", "`rank` must be 'auto' or a whole number from 1 to 512"),
    ({"beta": 0}, "beta", "`beta` must be a number that is above 0 and at most 10"),
    ({"share": 1}, "share", "`share` must be a number from 0.01 to 0.5"),
    ({"color": "SECRET"}, "color", "`color` must be 'red' or 'blue'"),
    ({"whole": 1}, "whole", "`whole` cannot have this value"),
    ({"pair": [1.0]}, "pair", "`pair` must be a list of 2 items"),
    ({"pair": [1.0, "SECRET"]}, "pair[1]", "`pair[1]` must be a number"),
    ({"is_on": 1}, "is_on", "`is_on` must be true or false"),
    ({"parts": [1]}, "parts[0]", "`parts[0]` must be an object"),
    ({"parts": [{"name": "a"}] * 3}, "parts", "`parts` must be a list of at most 2 items or null"),
    ({"parts": [{"name": ""}]}, "parts[0].name", "`parts[0].name` must be a text of 1 to 64 characters without the "),
    ({"parts": [{"name": "a", "kind": "SECRET"}]}, "parts[0].kind", "`parts[0].kind` must be 'nf4' or 'none'"),
    ({"labels": {"a": "SECRET"}}, "labels[...]", "`labels[...]` must be a whole number"),
    ({"labels": {"": 1}}, "labels", "a name in `labels` must be a text of at least 1 character"),
]


@pytest.mark.parametrize(("value", "field", "words"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_said_with_what_would_be_right(value: Any, field: str | None, words: str) -> None:
    """By the field's name, without the value, and without the words of the library that reads it."""
    with pytest.raises(msgspec.ValidationError) as failed:
        msgspec.json.decode(msgspec.json.encode(value), type=Whole)
    told = plain(failed.value, Whole, "the body")
    assert told.startswith(words)
    assert field_of(failed.value) == field
    assert "SECRET" not in told
    assert "Expected" not in told


def test_what_our_own_types_say_is_kept() -> None:
    """These words are plain already."""
    for value, kind, words in (
        ({"pattern": "("}, Careful, "the group is not closed"),
        ([{"pattern": "("}], list[Careful], "`[0]`: the group is not closed"),
    ):
        with pytest.raises(msgspec.ValidationError) as failed:
            msgspec.json.decode(msgspec.json.encode(value), type=kind)
        assert plain(failed.value, kind) == words


def test_a_field_is_described() -> None:
    """For what is not read as JSON, such as a parameter."""
    assert described(Whole, "rank") == "'auto' or a whole number from 1 to 512"
    assert described(Whole, "parts[0].kind") == "'nf4' or 'none'"
    assert described(Whole, "parts") == "a list of at most 2 items"
    assert described(Whole, "rnak") is None
