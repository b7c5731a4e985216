"""Commands about what is said of answers: say it, and list it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ostler import render
from ostler.client import AdminClient, CommandFailed
from ostler.moments import Since, moment
from ostler.options import Json, Key, Url, show


class Thumb(StrEnum):
    """Good or bad."""

    UP = "up"
    DOWN = "down"


def add(
    request: Annotated[str | None, typer.Option(metavar="ID", help="The request, by its x-request-id.")] = None,
    completion: Annotated[str | None, typer.Option(metavar="ID", help="The answer, by its own id.")] = None,
    thumb: Annotated[Thumb | None, typer.Option(help="Good or bad.")] = None,
    score: Annotated[float | None, typer.Option(min=0, max=1, help="How good, from 0 to 1.")] = None,
    comment: Annotated[str | None, typer.Option(help="What there is to say.")] = None,
    correction: Annotated[str | None, typer.Option(help="The answer that should have been.")] = None,
    correction_file: Annotated[Path | None, typer.Option(metavar="FILE", help="A file with that answer.")] = None,
    id: Annotated[str | None, typer.Option(help="Your own id: said twice it is kept once.")] = None,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Say how good an answer was, of any request with an admin key, else of the key's own."""
    if correction is not None and correction_file is not None:
        raise CommandFailed("--correction and --correction-file are two answers; give one", 2)
    given = {
        "request_id": request,
        "completion_id": completion,
        "thumb": thumb and thumb.value,
        "score": score,
        "comment": comment,
        "correction": _read(correction_file) if correction_file else correction,
        "id": id,
    }
    client = AdminClient(url, api_key)
    body = {name: value for name, value in given.items() if value is not None}
    show(client.call("POST", f"{client.url}/v1/feedback", json=body), json, _line)


def list_feedback(
    adapter: Annotated[str | None, typer.Option(help="Only of this adapter.")] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Only of this version.")] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 50,
    before: Annotated[str | None, typer.Option(metavar="ID", help="Go on from this one.")] = None,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """List what was said of answers, newest first."""
    given = {"adapter": adapter, "version": version, "since": moment(since), "limit": limit, "before": before}
    params = {name: value for name, value in given.items() if value is not None}
    show(AdminClient(url, api_key).call("GET", "/feedback", params=params), json, _table)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{file} cannot be read as text ({type(error).__name__})", 2) from None


def _line(feedback: Any) -> None:
    render.out.print(
        render.words(f"Kept as {feedback['id']}, on request {feedback['request_id']} {_answerer(feedback)}.")
    )


def _answerer(feedback: Any) -> str:
    if feedback["version"] is None:
        return f"of {feedback['adapter']}, answered by the base model" if feedback["adapter"] else "of the base model"
    return f"of {feedback['adapter']}, answered by version {feedback['version']}"


def _table(answer: Any) -> None:
    rows = [
        (
            each["id"],
            render.when(each["created_at"]),
            each["adapter"],
            each["version"],
            each["thumb"],
            each["score"],
            (
                f"request {each['request_id']}",
                *(part for part in (each["comment"], each["correction"] and f"right: {each['correction']}") if part),
            ),
        )
        for each in answer["data"]
    ]
    headings = ("ID", "WHEN", "ADAPTER", "VERSION", "THUMB", "SCORE", "OF WHAT, COMMENT, WHAT WAS RIGHT")
    render.table(headings, rows, "Nothing was said yet.")
    if answer["has_more"]:
        render.out.print(f"There is more: --before {answer['data'][-1]['id']} goes on.")
