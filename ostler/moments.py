"""Moments on the command line, and as the API takes them."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from ostler.client import CommandFailed

Since = Annotated[
    str | None, typer.Option("--since", metavar="MOMENT", help="From then on, such as 2026-11-01 or 2026-11-01T08:00Z.")
]
Until = Annotated[str | None, typer.Option("--until", metavar="MOMENT", help="Before then.")]


def moment(words: str | None) -> str | None:
    """A moment as the API takes it; without a time zone it is UTC.

    Raises:
        CommandFailed: it is none.
    """
    if words is None:
        return None
    try:
        found = datetime.fromisoformat(words)
    except ValueError:
        raise CommandFailed(f"{words!r} is no moment; say such as 2026-11-01 or 2026-11-01T08:00Z", 2) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).isoformat()
