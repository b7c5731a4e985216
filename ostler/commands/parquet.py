"""Writes the admin API's lists into Parquet files, page by page, so that a million rows need little memory."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from ostler.client import AdminClient, CommandFailed

_PAGE = 1000
_PAGE_WITH_TEXT = 100
_ALL = "2000-01-01T00:00:00+00:00"
_GROUP = 20_000
"""Rows of a row group; with text fewer, for a row of text is a hundred times as large."""
_GROUP_WITH_TEXT = 1000
_MOMENT, _WORDS, _NUMBER, _COUNT, _TRUTH = "moment", "string", "double", "int64", "bool"

_REQUESTS = {
    **dict.fromkeys(("id", "request_id", "path", "key_id", "adapter", "model"), _WORDS),
    "version": _COUNT,
    **dict.fromkeys(("variant", "pool"), _WORDS),
    "status": _COUNT,
    **dict.fromkeys(("error", "finish_reason"), _WORDS),
    "started_at": _MOMENT,
    **dict.fromkeys(("duration_s", "first_byte_s", "queue_s", "overhead_s"), _NUMBER),
    "streamed": _TRUTH,
    **dict.fromkeys(("prompt_tokens", "completion_tokens"), _COUNT),
    "cost": _NUMBER,
    "replica": _WORDS,
    "retries": _COUNT,
    **dict.fromkeys(("session", "end_user", "completion_id"), _WORDS),
}
_TEXT = {"prompt": _WORDS, "answer": _WORDS, "redactions": _COUNT}
_USAGE = {
    "period": _MOMENT,
    **dict.fromkeys(("key_id", "pool", "adapter"), _WORDS),
    "version": _COUNT,
    "variant": _WORDS,
    **dict.fromkeys(("requests", "errors", "prompt_tokens", "completion_tokens"), _COUNT),
    **dict.fromkeys(("duration_s", "cost"), _NUMBER),
}
_FEEDBACK = {
    **dict.fromkeys(("id", "request_id", "key_id", "client_id", "adapter"), _WORDS),
    "version": _COUNT,
    **dict.fromkeys(("variant", "thumb"), _WORDS),
    "score": _NUMBER,
    **dict.fromkeys(("comment", "correction"), _WORDS),
    "created_at": _MOMENT,
}
_COLUMNS = {"requests": _REQUESTS, "usage": _USAGE, "feedback": _FEEDBACK}


def write_parquet(client: AdminClient, file: Path, what: str, wanted: dict[str, Any], *, text: bool = False) -> int:
    """Write a list into a file, which holds all of it or stays as it was; the number of rows.

    `wanted` may have `adapter`, and `since` and `until` as moments with a time zone.

    Raises:
        CommandFailed: pyarrow is not installed, the file cannot be written, or the gateway refuses.
    """
    try:
        import pyarrow as pa  # here, because no other command needs it
        import pyarrow.parquet as pq
    except ImportError:
        raise CommandFailed("export needs pyarrow: pip install 'ostler[export]'") from None
    columns = _COLUMNS[what] | (_TEXT if text else {})
    types = {"moment": pa.timestamp("us", tz="UTC")}
    schema = pa.schema([(name, types.get(kind) or pa.type_for_alias(kind)) for name, kind in columns.items()])
    total = 0
    with _replacing(file) as new, pq.ParquetWriter(new, schema, compression="zstd") as writer:
        for rows in _groups(_pages(client, what, wanted, text=text), _GROUP_WITH_TEXT if text else _GROUP):
            values = [{name: _value(row[name], kind) for name, kind in columns.items()} for row in rows]
            writer.write_table(pa.Table.from_pylist(values, schema=schema))
            total += len(rows)
    return total


@contextlib.contextmanager
def _replacing(file: Path) -> Iterator[str]:
    """A new file beside it, which takes its place once the block has ended well."""
    try:
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        os.close(handle)
        try:
            yield name
            Path(name).replace(file)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise CommandFailed(f"{file} cannot be written: {error.strerror or type(error).__name__}") from error


def _groups(pages: Iterator[list[Any]], size: int) -> Iterator[list[Any]]:
    held: list[Any] = []
    for page in pages:
        held += page
        if len(held) >= size:
            yield held
            held = []
    if held:
        yield held


def _pages(client: AdminClient, what: str, wanted: dict[str, Any], *, text: bool) -> Iterator[list[Any]]:
    if what == "feedback":
        yield from _pages_of_feedback(client, dict(wanted))
        return
    params: dict[str, Any] = {**wanted, "limit": _PAGE_WITH_TEXT if text else _PAGE}
    if what == "usage":
        params.setdefault("since", _ALL)
        params |= {"per": "hour", "by": ["key_id", "pool", "adapter", "version", "variant"]}
    else:
        params |= {"order": "oldest"} | ({"text": "true"} if text else {})
    more = True
    while more:
        page = client.call("GET", f"/{what}", params=params)
        yield page["data"]
        more = page["has_more"]
        params["after"] = page["next"]


def _pages_of_feedback(client: AdminClient, wanted: dict[str, Any]) -> Iterator[list[Any]]:
    """Its list goes from the newest back and knows no end, so that is held here."""
    end = wanted.pop("until", None)
    until = datetime.fromisoformat(end) if end else None
    params: dict[str, Any] = {**wanted, "limit": _PAGE}
    more = True
    while more:
        page = client.call("GET", "/feedback", params=params)
        yield [row for row in page["data"] if until is None or datetime.fromisoformat(row["created_at"]) < until]
        more = page["has_more"]
        if more:
            params["before"] = page["data"][-1]["id"]


def _value(value: Any, kind: str) -> Any:
    """A value of JSON as its column takes it; a list of messages becomes a text of JSON."""
    if value is None:
        return None
    if kind == _MOMENT:
        return datetime.fromisoformat(value)
    if kind == _WORDS and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return value
