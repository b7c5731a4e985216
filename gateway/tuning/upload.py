"""Files as clients send them: a form of OpenAI's kind, received as it comes, with never more than a piece in memory."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
)

from gateway.admin.uploads import chunks, scratch
from gateway.errors import BodyTooLarge, InvalidRequest
from gateway.settings import GatewaySettings
from gateway.web import AnyRequest
from registry.artifacts import store_failures
from registry.tuning.files import NewFile

PURPOSES = ("fine-tune", "evals")
"""What clients may send files for: training and validation, and sets that a job's gate asks."""
_FILE, _PURPOSE, _ANCHOR, _SECONDS = "file", "purpose", "expires_after[anchor]", "expires_after[seconds]"
_FIELDS = (_FILE, _PURPOSE, _ANCHOR, _SECONDS)
_CREATED_AT = "created_at"
_HOUR_S, _MONTH_S = 3600, 2_592_000
_LONGEST_FIELD = 100
_LONGEST_NAME = 255
_LONGEST_BOUNDARY = 200
_FORM_BYTES = 64 << 10
"""What a form may hold beside the file."""
_NAMELESS = "upload"

FORM: dict[str, Any] = {
    "type": "object",
    "required": [_FILE, _PURPOSE],
    "properties": {
        _FILE: {"type": "string", "format": "binary", "description": "JSON lines."},
        _PURPOSE: {"type": "string", "enum": list(PURPOSES)},
        _ANCHOR: {"type": "string", "enum": [_CREATED_AT], "description": "From when on its time counts."},
        _SECONDS: {"type": "integer", "minimum": _HOUR_S, "maximum": _MONTH_S, "description": "How long it is kept."},
    },
    "additionalProperties": False,
}
"""The form, as the OpenAPI document shows it."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that was received whole; `content` is gone when the request is over."""

    content: Path
    new: NewFile


@contextlib.asynccontextmanager
async def received(request: AnyRequest, settings: GatewaySettings) -> AsyncIterator[Upload]:
    """The file that the request's form holds; its content is gone after the block.

    Raises:
        InvalidRequest: it is no such form, or the file is empty.
        BodyTooLarge, BodyTooSlow
        StoreFailure: it could not be written, on a full disk for one.
    """
    with scratch(settings.cache) as folder:
        content = folder / "content"
        with store_failures("take the upload"), content.open("wb") as opened:
            form = _Form(opened, settings.max_file_bytes)
            await _read(request, settings, form)
        yield Upload(content, form.finish())


async def _read(request: AnyRequest, settings: GatewaySettings, form: "_Form") -> None:
    most = settings.max_file_bytes + _FORM_BYTES
    if (request.content_length or 0) > most:
        raise form.too_large()
    size = 0
    try:
        with PushMultipartParser(_boundary(request), max_segment_count=len(_FIELDS)) as parser:
            async for chunk in chunks(request, settings.body_timeout_s):
                size += len(chunk)
                if size > most:
                    raise form.too_large()
                for event in parser.parse(chunk):
                    await form.take(event)
    except ParserLimitReached:
        fields = ", ".join(_FIELDS)
        raise InvalidRequest(f"the form has too many fields, or too long headers of one; there are {fields}") from None
    except MultipartError:
        raise InvalidRequest("the body is not a whole form as its boundary says (multipart/form-data)") from None


def _boundary(request: AnyRequest) -> str:
    kind, options = request.content_type
    boundary = options.get("boundary", "")
    if kind != "multipart/form-data" or not 0 < len(boundary) <= _LONGEST_BOUNDARY:
        raise InvalidRequest(
            "a file is sent as a form: content-type multipart/form-data with a boundary", param="content-type"
        )
    return boundary


class _Form:
    """What has come of a form so far.

    Args:
        file: where the file's content goes.
        limit: its largest size, bytes.
    """

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file = file
        self._limit = limit
        self._filename = ""
        self._sizes: dict[str, int] = {}
        self._texts: dict[str, bytes] = {}
        self._part = ""

    async def take(self, event: Any) -> None:
        """Take what the parser found next: the head of a part, a piece of it, or its end (None)."""
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event is not None:
            await self._add(event)
        elif self._part != _FILE:
            self._check(self._part)

    def too_large(self) -> BodyTooLarge:
        """What is said of a file over the limit."""
        return BodyTooLarge(f"the file is larger than the limit of {self._limit} bytes", param=_FILE)

    def finish(self) -> NewFile:
        """What is said of the file.

        Raises:
            InvalidRequest: something is missing, or the file is empty.
        """
        for name in (_FILE, _PURPOSE):
            if name not in self._sizes:
                raise InvalidRequest(f"the form lacks the field '{name}'", param=name)
        if not self._sizes[_FILE]:
            raise InvalidRequest("the file is empty", param=_FILE)
        if (_ANCHOR in self._sizes) != (_SECONDS in self._sizes):
            raise InvalidRequest("`expires_after` needs both `anchor` and `seconds`", param="expires_after")
        expires_at = None
        if _SECONDS in self._sizes:
            expires_at = datetime.now(UTC) + timedelta(seconds=int(self._text(_SECONDS)))
        return NewFile(clean_name(self._filename), self._text(_PURPOSE), expires_at)

    def _begin(self, part: MultipartSegment) -> None:
        name = part.name or ""
        if name not in _FIELDS:
            raise InvalidRequest(f"the form has an unknown field; there are {', '.join(_FIELDS)}")
        if name in self._sizes:
            raise InvalidRequest(f"the form has the field '{name}' twice; a request sends one file", param=name)
        self._part = name
        self._sizes[name] = 0
        if name == _FILE:
            self._filename = part.filename or ""

    async def _add(self, piece: bytes) -> None:
        self._sizes[self._part] += len(piece)
        if self._part == _FILE:
            if self._sizes[_FILE] > self._limit:
                raise self.too_large()
            await asyncio.to_thread(self._file.write, piece)
        elif self._sizes[self._part] > _LONGEST_FIELD:
            raise InvalidRequest(f"the field '{self._part}' is too long", param=self._part)
        else:
            self._texts[self._part] = self._texts.get(self._part, b"") + piece

    def _text(self, name: str) -> str:
        return self._texts.get(name, b"").decode(errors="replace")

    def _check(self, name: str) -> None:
        """What a field says is checked when it has come, so that nobody sends a large file in vain."""
        text = self._text(name)
        if name == _PURPOSE and text not in PURPOSES:
            raise InvalidRequest(f"`purpose` must be one of: {', '.join(PURPOSES)}", param=_PURPOSE)
        if name == _ANCHOR and text != _CREATED_AT:
            raise InvalidRequest(f"`expires_after[anchor]` must be '{_CREATED_AT}'", param=_ANCHOR)
        if name == _SECONDS and not (re.fullmatch(r"[0-9]{1,9}", text) and _HOUR_S <= int(text) <= _MONTH_S):
            raise InvalidRequest(
                f"`expires_after[seconds]` must be a whole number from {_HOUR_S} to {_MONTH_S}", param=_SECONDS
            )


def clean_name(sent: str) -> str:
    """The last part of a file's name, without what cannot be printed, in 255 characters at most."""
    last = re.split(r"[/\\]", sent)[-1]
    shown = "".join(letter for letter in last if letter.isprintable()).strip()[:_LONGEST_NAME]
    return shown if shown.strip(".") else _NAMELESS
