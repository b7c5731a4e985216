"""What the monitor and its child process for drift say to each other, as JSON; light, for it stands on both sides."""

from typing import Any, Literal

import msgspec

Kind = Literal["number", "category", "text", "vector"]

DRAWS = 5000
"""Of the bootstrap: some exceed the thresholds of a usual rate, so that little is extrapolated."""


class Values(msgspec.Struct, frozen=True):
    """A column: its values in the reference and in the window; none is null."""

    name: str
    kind: Kind
    reference: list[Any]
    current: list[Any]


class Task(msgspec.Struct, frozen=True):
    """What to do: hold the columns against their references at the error probability `alpha` for all together.

    `nulls` are distributions of an earlier result, by column; one for other sizes is found anew. `report` is where the
    HTML report shall be; None makes none.
    """

    columns: list[Values]
    alpha: float
    seed: int
    nulls: dict[str, dict[str, Any]] = {}
    draws: int = DRAWS
    report: str | None = None


class Verdict(msgspec.Struct, frozen=True):
    """What became of a column: it drifted if the statistic reached the threshold, which holds for all columns."""

    name: str
    method: str
    statistic: float
    threshold: float
    p_value: float
    drifted: bool
    rows: int
    reference_rows: int


class Result(msgspec.Struct, frozen=True):
    """A verdict for each column, and the distributions that thresholds were read from."""

    columns: list[Verdict]
    nulls: dict[str, dict[str, Any]]
