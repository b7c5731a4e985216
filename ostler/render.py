"""Answers as people read them: tables and short sentences."""

import json
import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPED_WIDTH = 200
out = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)


def as_json(answer: Any) -> None:
    """For programs."""
    print(json.dumps(answer, indent=2))


def plain(words: str) -> None:
    """Lines that are to be pasted, and so must not be broken."""
    print(words, flush=True)


def words(others: object) -> Text:
    """Names, notes and messages as they are: in one line, without markup, and without a terminal's control codes."""
    line = " ".join(str(others).split())
    return Text("".join(letter if letter.isprintable() else "\ufffd" for letter in line))


def error(message: str) -> None:
    """A failure, in one line."""
    err.print(Text.assemble(("error:", "red"), " ", words(message)), soft_wrap=True)


def table(headings: Iterable[str], rows: Iterable[Iterable[object]], nothing: str) -> None:
    """Rows under headings, or `nothing` in words."""
    drawn = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for heading in headings:
        # A name that is cut off cannot be copied; prose may fold.
        drawn.add_column(heading, overflow="fold", no_wrap=heading not in ("REASON", "NOTE", "BY"))
    for row in rows:
        drawn.add_row(*(words("-" if cell is None else cell) for cell in row))
    if drawn.row_count:
        out.print(drawn)
    else:
        out.print(nothing)


def when(moment: str | None) -> str:
    """A moment in local time, to the second."""
    return "-" if moment is None else datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def size(count: int) -> str:
    """Bytes as people say them."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def adapters(answer: Any) -> None:
    """The list of adapters."""
    rows = []
    for adapter in answer["data"]:
        deployment = adapter["deployment"]
        live = next((v["engine_name"] for v in adapter["versions"] if v["state"] == "live"), None)
        rows.append(
            (adapter["name"], adapter["base"], live, len(adapter["versions"]), deployment and deployment["revision"])
        )
    table(
        ("ADAPTER", "BASE", "LIVE", "VERSIONS", "REVISION"), rows, "No adapters yet: `ostler push DIR --adapter NAME`."
    )


def adapter(answer: Any) -> None:
    """One adapter with its versions."""
    deployment = answer["deployment"]
    live = (
        f"serves version {deployment['stable']} since revision {deployment['revision']}"
        if deployment
        else "serves nothing yet"
    )
    out.print(Text.assemble((answer["name"], "bold"), f" on {answer['base']}: {live}"))
    rows = [
        (
            v["number"],
            v["engine_name"],
            v["state"],
            v["rank"],
            size(v["size_bytes"]),
            when(v["created_at"]),
            v["created_by"],
            v["note"] or None,
        )
        for v in answer["versions"]
    ]
    table(("VERSION", "ENGINE NAME", "STATE", "RANK", "SIZE", "PUSHED", "BY", "NOTE"), rows, "No versions.")


def history(answer: Any) -> None:
    """A deployment's revisions."""
    rows = [
        (
            r["revision"],
            r["action"] + (f" to {r['restores']}" if r["restores"] else ""),
            r["stable"],
            r["previous_stable"],
            when(r["created_at"]),
            r["actor"],
            r["reason"] or None,
        )
        for r in answer["data"]
    ]
    table(("REVISION", "ACTION", "SERVES", "BEFORE", "WHEN", "BY", "REASON"), rows, "Nothing was promoted yet.")
    if answer["has_more"]:
        out.print("There is more: --limit shows it.")


def keys(answer: Any) -> None:
    """The API keys."""
    rows = [
        (
            k["id"],
            k["name"],
            k["hint"],
            k["role"],
            ", ".join(k["adapters"]) if k["adapters"] is not None else "all",
            when(k["created_at"]),
            _standing(k),
        )
        for k in answer["data"]
    ]
    table(("ID", "NAME", "KEY", "ROLE", "ADAPTERS", "CREATED", "STANDING"), rows, "No keys.")


def _standing(key: Any) -> str:
    if key["revoked_at"]:
        return f"revoked {when(key['revoked_at'])}"
    return f"until {when(key['expires_at'])}" if key["expires_at"] else "valid"
