"""Makes the rows of captured requests: takes apart what was said, and takes out what must not be stored."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from monitors.log.text import NotText, characters, said
from monitors.privacy.redaction import Redactor
from monitors.record import RequestRecord

_CHARACTERS_AT_ONCE = 256 << 10
"""Of rows that the driver gets together: it makes JSON of them, some milliseconds in which nothing else runs."""
_ROWS_AT_ONCE = 100


@dataclass(slots=True)
class Captured:
    """The rows by the number of their record, and why others have none."""

    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)


def capture(numbered: Iterable[tuple[int, RequestRecord]], redactor: Redactor) -> Captured:
    """The rows of those that were drawn, without their ids and times; it takes a while and belongs in a thread."""
    captured = Captured()
    for number, record in numbered:
        if record.text is None:
            continue
        try:
            captured.rows[number] = _row(record, redactor)
        except NotText as error:
            captured.dropped[error.reason] += 1
        except Exception:  # a text that nobody thought of: nothing of it is stored, and the others are
            captured.dropped["failed"] += 1
    return captured


def stamped(row: dict[str, Any], id: str, now: datetime) -> dict[str, Any]:
    """A row as it is written: with the id of its request, and the time of writing, by which readers go on."""
    return {**row, "id": id, "created_at": now}


def portions(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The rows in the pieces in which they are written, by their number and by how much text is in them."""
    portion: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        more = characters(row["prompt"]) + characters(row["answer"])
        if portion and (size + more > _CHARACTERS_AT_ONCE or len(portion) == _ROWS_AT_ONCE):
            yield portion
            portion, size = [], 0
        portion.append(row)
        size += more
    if portion:
        yield portion


def _row(record: RequestRecord, redactor: Redactor) -> dict[str, Any]:
    assert record.text is not None
    found = said(record.path, record.text)
    prompt, taken = redactor.redact_value(_storable(found.prompt))
    answer = redactor.redact(_storable(found.answer or ""))
    return {
        "request_id": record.request_id,
        "adapter": record.adapter or "",
        "version": record.version or 0,
        "variant": record.variant or "",
        "session": record.session,
        "end_user": record.end_user,
        "prompt": prompt,
        "answer": answer.text or None,
        "redactions": taken + answer.count,
        "mean_logprob": found.mean_logprob,
    }


def _storable(value: Any) -> Any:
    """The same without NUL, which PostgreSQL takes in no text."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    return value
