"""The command that shows what requests cost."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from ostler import render
from ostler.client import AdminClient
from ostler.moments import Since, Until, moment
from ostler.options import Json, Key, Url, show

_GROUPS = ("adapter", "version", "variant", "key_id", "pool")
_BASE = "(the base model)"
_NOBODY = "(no key)"
_REFUSED = "(not served)"
_COLUMNS = """\
PER 1,000      without errors; of an adapter its own answers, without the monitor's evaluations
BASE, 1,000    of the same adapter's requests that the base model answered (shadow, fallback)"""
_COLUMNS_OF_POOLS = """\
PER 1,000      without errors
IDLE           what the engines cost in hours without a token; it is in no request's cost"""

_NO_COST = """\
No cost is known: no price is set (OSTLER_PRICE_PER_GPU_HOUR or OSTLER_PRICE_PER_MILLION_..._TOKENS), or the first
hour is not over yet; an hour's cost is told 15 minutes after its end."""


class By(StrEnum):
    """What costs are told apart by."""

    ADAPTER = "adapter"
    VERSION = "version"
    VARIANT = "variant"
    KEY = "key"
    POOL = "pool"


class Per(StrEnum):
    """How long a sum goes."""

    DAY = "day"
    MONTH = "month"


def costs(
    by: Annotated[By, typer.Option(help="What to tell apart.")] = By.ADAPTER,
    per: Annotated[Per, typer.Option(help="How long each sum goes, in UTC.")] = Per.DAY,
    adapter: Annotated[str | None, typer.Option(help="Only this adapter.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many lines.")] = 100,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Show what requests cost, beside the base model; without --since the last 30 days or 12 months."""
    given = {"adapter": adapter, "since": moment(since), "until": moment(until)}
    params = {"by": by.value, "per": per.value, "limit": limit}
    params |= {name: value for name, value in given.items() if value is not None}
    show(AdminClient(url, api_key).call("GET", "/costs", params=params), json, _table)


def _table(answer: Any) -> None:
    data = answer["data"]
    has_idle = any(each["idle"] is not None for each in data)
    headings = ("PERIOD", "COST", "PER 1,000", "IDLE" if has_idle else "BASE, 1,000", "REQUESTS", "TOKENS", "OF WHAT")
    rows = [
        (
            each["period"],
            _money(each["cost"]),
            _money(each["per_thousand"]),
            _money(each["idle"] if has_idle else each["base_per_thousand"]),
            each["requests"],
            each["prompt_tokens"] + each["completion_tokens"],
            _name(each),
        )
        for each in data
    ]
    render.table(headings, rows, "Nothing was used then.")
    if rows:
        render.out.print(_COLUMNS_OF_POOLS if has_idle else _COLUMNS)
        if not any(each["cost"] for each in data):
            render.out.print(_NO_COST)
    if answer["has_more"]:
        render.out.print("There is more: --limit shows it, or a shorter time from --since to --until.")


def _name(each: Any) -> str:
    """What a line is about; a version 0 is the base model."""
    if each["key_id"] == "":
        return _NOBODY
    if each["pool"] == "":
        return _REFUSED
    parts = [f"{each[name]}" for name in _GROUPS if each[name] not in (None, "")]
    if each["version"] == 0:
        parts = [each["adapter"], _BASE] if each["adapter"] else [_BASE]
    elif each["adapter"] == "":
        parts = [_BASE, *parts]
    return " ".join(parts) or _BASE


def _money(value: float | None) -> str | None:
    return None if value is None else f"{value:.6g}"
