"""Arguments and options that several commands share, and how they show what came back."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ostler import render
from ostler.client import CommandFailed

Name = Annotated[str, typer.Argument(help="The adapter's name.", show_default=False)]
Number = Annotated[int, typer.Argument(metavar="VERSION", min=1, help="The version's number.")]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Url = Annotated[
    str, typer.Option("--url", envvar="OSTLER_URL", help="The gateway's address.", show_default="http://127.0.0.1:8080")
]
Key = Annotated[
    str,
    typer.Option(
        "--api-key", envvar="OSTLER_API_KEY", help="An admin key.", show_default="the one `ostler up` wrote here"
    ),
]
Reason = Annotated[str, typer.Option("--reason", "-m", help="Why; it stands in the history.")]
IfRevision = Annotated[
    int | None,
    typer.Option(
        "--if-revision", min=0, help="Only if the deployment is at this revision still.", show_default="any revision"
    ),
]
Off = Annotated[bool, typer.Option("--off", help="Take it away.")]


def show(answer: Any, json: bool, for_people: Callable[[Any], None]) -> None:
    """Print an answer, for programs or for people."""
    if json:
        render.as_json(answer)
    else:
        for_people(answer)


def save(file: Path, content: bytes) -> None:
    """Write an answer to a file.

    Raises:
        CommandFailed: it cannot be written.
    """
    try:
        file.write_bytes(content)
    except OSError as error:
        raise CommandFailed(f"{file} cannot be written: {error.strerror}", 2) from error
