"""Commands about what clients asked: list it, add it up, delete what is somebody's, and export it."""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ostler import render
from ostler.client import AdminClient, CommandFailed
from ostler.options import Json, Key, Url, show

Adapter = Annotated[str | None, typer.Option("--adapter", help="Only this adapter.")]
KeyId = Annotated[str | None, typer.Option("--key", metavar="ID", help="Only this API key, by its id.")]
Session = Annotated[str | None, typer.Option("--session", help="The session, as the client named it.")]
User = Annotated[str | None, typer.Option("--user", help="The end user, as the client named them.")]
Since = Annotated[
    str | None, typer.Option("--since", metavar="MOMENT", help="From then on, such as 2026-11-01 or 2026-11-01T08:00Z.")
]
Until = Annotated[str | None, typer.Option("--until", metavar="MOMENT", help="Before then.")]


class Period(StrEnum):
    """How long a sum goes."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    ALL = "all"


class Part(StrEnum):
    """What sums are told apart by."""

    KEY = "key"
    POOL = "pool"
    ADAPTER = "adapter"
    VERSION = "version"
    VARIANT = "variant"


class What(StrEnum):
    """What can be exported."""

    REQUESTS = "requests"
    USAGE = "usage"
    FEEDBACK = "feedback"


def requests(
    adapter: Adapter = None,
    version: Annotated[int | None, typer.Option(min=1, help="Only this version.")] = None,
    variant: Annotated[str | None, typer.Option(help="Only this variant, such as canary.")] = None,
    key: KeyId = None,
    status: Annotated[int | None, typer.Option(min=100, max=599, help="Only this HTTP status.")] = None,
    session: Session = None,
    user: User = None,
    since: Since = None,
    until: Until = None,
    oldest: Annotated[bool, typer.Option("--oldest", help="The oldest first.")] = False,
    text: Annotated[bool, typer.Option("--text", help="With what was said, where it was captured.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many; with --text at most 100.")] = 50,
    after: Annotated[str | None, typer.Option(help="Go on behind a page, with its `next`.")] = None,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """List finished requests, newest first."""
    given = {
        "adapter": adapter,
        "version": version,
        "variant": variant,
        "key": key,
        "status": status,
        "session": session,
        "user": user,
        "order": "oldest" if oldest else None,
        "text": "true" if text else None,
        "limit": limit,
        "after": after,
    }
    params = _said(given) | _span(since, until)
    show(AdminClient(url, api_key).call("GET", "/requests", params=params), json, _requests_table)


def usage(
    by: Annotated[list[Part] | None, typer.Option("--by", help="Apart by this; may be said again.")] = None,
    per: Annotated[Period, typer.Option("--per", help="Sums of how long.")] = Period.DAY,
    adapter: Adapter = None,
    key: KeyId = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 1000,
    after: Annotated[str | None, typer.Option(help="Go on behind a page, with its `next`.")] = None,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Show how many requests, tokens and how much money were used, oldest first; of 30 days without --since."""
    parts = _parts(by or [Part.ADAPTER])
    given = {"adapter": adapter, "key": key, "limit": limit, "after": after, "per": per.value, "by": parts}
    params = _said(given) | _span(since, until)
    show(
        AdminClient(url, api_key).call("GET", "/usage", params=params), json, lambda answer: _usage_table(answer, parts)
    )


def forget(session: Session = None, user: User = None, json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Delete all requests of a session or an end user for good, with their text and feedback; sums stay."""
    if (session is None) == (user is None):
        raise CommandFailed("say whom to forget: --session or --user, one of them", 2)
    answer = AdminClient(url, api_key).call("DELETE", "/requests", params=_said({"session": session, "user": user}))
    show(answer, json, _tell_forgotten)


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The Parquet file to write.", dir_okay=False)],
    what: Annotated[What, typer.Option("--what", help="What to export.")] = What.REQUESTS,
    adapter: Adapter = None,
    since: Since = None,
    until: Until = None,
    text: Annotated[
        bool, typer.Option("--text", help="Requests with what was said, as far as it was captured.")
    ] = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Write requests, hourly usage or feedback into a Parquet file, whole or not at all."""
    if text and what is not What.REQUESTS:
        raise CommandFailed("--text goes with --what requests", 2)
    from ostler.commands.parquet import write_parquet

    client = AdminClient(url, api_key)
    wanted = _said({"adapter": adapter}) | _span(since, until)
    rows = write_parquet(client, file, what.value, wanted, text=text)
    render.out.print(render.words(f"{file}: {rows} rows"))


def _said(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _span(since: str | None, until: str | None) -> dict[str, Any]:
    return _said({"since": _moment(since), "until": _moment(until)})


def _moment(words: str | None) -> str | None:
    """A moment as the API takes it; without a time zone it is UTC, as everywhere in the log.

    Raises:
        CommandFailed
    """
    if words is None:
        return None
    try:
        found = datetime.fromisoformat(words)
    except ValueError:
        raise CommandFailed(f"{words!r} is no moment; say such as 2026-11-01 or 2026-11-01T08:00Z", 2) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).isoformat()


def _parts(by: list[Part]) -> list[str]:
    return ["key_id" if part is Part.KEY else part.value for part in by]


def _requests_table(answer: Any) -> None:
    rows = [
        (
            render.when(each["started_at"]),
            each["model"],
            each["variant"],
            each["status"],
            f"{each['duration_s']:.2f}",
            each["prompt_tokens"],
            each["completion_tokens"],
            each["key_id"],
            (each["request_id"], *filter(None, [each["error"]]), *_text_lines(each)),
        )
        for each in answer["data"]
    ]
    headings = ("ARRIVED", "MODEL", "VARIANT", "STATUS", "SECONDS", "IN", "OUT", "KEY", "REQUEST")
    render.table(headings, rows, "No such requests are in the log.")
    _tell_next(answer)


def _text_lines(request: Any) -> list[str]:
    """What was said: the last message, or the prompt's text, and the answer."""
    prompt = request.get("prompt")
    last = prompt[-1].get("content") if isinstance(prompt, list) and prompt else prompt
    lines = (("asked: ", last), ("answered: ", request.get("answer")))
    return [f"{name}{words}" for name, words in lines if words is not None]


def _usage_table(answer: Any, parts: list[str]) -> None:
    names = {"period": "FROM (UTC)", "key_id": "KEY"}
    shown = [*(["period"] if any(each["period"] for each in answer["data"]) else []), *parts]
    sums = ("requests", "errors", "prompt_tokens", "completion_tokens", "cost")
    rows = [
        (
            *(_shown(each, name) for name in shown),
            *(f"{each[name]:g}" if name == "cost" else each[name] for name in sums),
        )
        for each in answer["data"]
    ]
    headings = [*(names.get(name, name.upper()) for name in shown), "REQUESTS", "ERRORS", "IN", "OUT", "COST"]
    render.table(headings, rows, "Nothing was used.")
    _tell_next(answer)


def _shown(each: Any, name: str) -> Any:
    """Periods begin by the calendar of UTC, so they are not told in local time."""
    return each[name][:16].replace("T", " ") if name == "period" else each[name] or None


def _tell_next(answer: Any) -> None:
    if answer["has_more"]:
        render.out.print(f"There are more: --after {answer['next']}", soft_wrap=True)


def _tell_forgotten(answer: Any) -> None:
    counts = ", ".join(f"{count} {name}" for name, count in answer.items())
    render.out.print(render.words(f"Deleted: {counts}."))
