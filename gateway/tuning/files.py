"""OpenAI's files: data that versions are made from or held against, sent by clients, and what jobs give back."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, BinaryIO, Literal
from urllib.parse import quote

import msgspec
from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.admin.fields import NO_NUL
from gateway.json_body import StrictRequest
from gateway.refusals import refusals
from gateway.settings import GatewaySettings
from gateway.tuning.access import owner_filter
from gateway.tuning.upload import received
from gateway.web import AnyRequest
from registry.artifacts import store_failures
from registry.building import built
from registry.registry import Registry
from registry.tuning.files import Files
from registry.tuning.tables import FileRow

_BYTES = "application/octet-stream"
_PIECE = 256 << 10

_Cursor = Annotated[str | None, QueryParameter(name="after", max_length=64, pattern=NO_NUL)]
_Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=10_000)]
_Order = Annotated[Literal["asc", "desc"], QueryParameter(name="order")]
_Purpose = Annotated[str | None, QueryParameter(name="purpose", max_length=64, pattern=NO_NUL)]


class FileShape(msgspec.Struct, frozen=True):
    """OpenAI's file object; `bytes` is its size, times are Unix seconds."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    expires_at: int | None
    status: Literal["processed"] = "processed"
    status_details: str | None = None
    object: Literal["file"] = "file"


class FileListShape(msgspec.Struct, frozen=True):
    """OpenAI's list of files; `after` goes on from its `last_id`."""

    data: list[FileShape]
    has_more: bool
    first_id: str | None
    last_id: str | None
    object: Literal["list"] = "list"


class FileDeletedShape(msgspec.Struct, frozen=True):
    """OpenAI's word that a file is gone."""

    id: str
    deleted: Literal[True] = True
    object: Literal["file"] = "file"


class FileController(Controller):
    """Files."""

    path = "/files"
    tags = ("Files",)
    request_class = StrictRequest

    @post("/", summary="Upload a file", status_code=200, request_max_body_size=None, responses=refusals(408, 413))
    async def create(
        self,
        request: AnyRequest,
        settings: NamedDependency[GatewaySettings],
        database: NamedDependency[AsyncEngine],
        registry: NamedDependency[Registry],
        actor: NamedDependency[str],
    ) -> FileShape:
        """Keep a file of JSON lines: to be trained on (`fine-tune`), or for a job's gate to ask (`evals`).

        What is in it is read when a job uses it. With `expires_after` it is deleted by itself.
        """
        async with received(request, settings) as upload:
            files, key_id = Files(database, registry.store), request.state.key.id
            file = await files.keep(upload.new, upload.content, key_id=key_id, actor=actor)
        return file_shape(file)

    @get("/", summary="List files", responses=refusals(404))
    async def list_files(
        self,
        request: AnyRequest,
        database: NamedDependency[AsyncEngine],
        registry: NamedDependency[Registry],
        after: _Cursor = None,
        limit: _Limit = 10_000,
        order: _Order = "desc",
        purpose: _Purpose = None,
    ) -> FileListShape:
        """The files that the key sees, newest first; `after` goes on from a file's id.

        A key with a list of adapters sees what itself sent, any other all files.
        """
        files = await Files(database, registry.store).listed(
            key_id=owner_filter(request.state.key),
            purpose=purpose,
            after=after,
            newest_first=order == "desc",
            limit=limit + 1,
        )
        page = await built(files[:limit], file_shape)
        first, last = (page[0].id, page[-1].id) if page else (None, None)
        return FileListShape(page, has_more=len(files) > limit, first_id=first, last_id=last)

    @get("/{file_id:str}", summary="Show a file", responses=refusals(404))
    async def show(
        self,
        file_id: FromPath[str],
        request: AnyRequest,
        database: NamedDependency[AsyncEngine],
        registry: NamedDependency[Registry],
    ) -> FileShape:
        """What is known of a file."""
        found = await Files(database, registry.store).find(file_id, key_id=owner_filter(request.state.key))
        return file_shape(found)

    @get(
        "/{file_id:str}/content",
        summary="Download a file",
        media_type=_BYTES,
        responses={
            **refusals(404),
            200: ResponseSpec(bytes, generate_examples=False, media_type=_BYTES, description="The file"),
        },
    )
    async def content(
        self,
        file_id: FromPath[str],
        request: AnyRequest,
        database: NamedDependency[AsyncEngine],
        registry: NamedDependency[Registry],
    ) -> Stream:
        """The file's content, byte for byte."""
        files = Files(database, registry.store)
        file = await files.find(file_id, key_id=owner_filter(request.state.key))
        path = await asyncio.to_thread(files.content, file)
        with store_failures("be read"):
            opened = path.open("rb")  # before the answer begins: what is deleted meanwhile is still sent whole
        headers = {
            "content-length": str(file.size_bytes),
            "content-disposition": disposition(file.filename),
            "x-content-type-options": "nosniff",
            "cache-control": "private, no-store",
        }
        return Stream(_pieces(opened), media_type=_BYTES, headers=headers)

    @delete("/{file_id:str}", summary="Delete a file", status_code=200, responses=refusals(404, 409))
    async def remove(
        self,
        file_id: FromPath[str],
        request: AnyRequest,
        database: NamedDependency[AsyncEngine],
        registry: NamedDependency[Registry],
        actor: NamedDependency[str],
    ) -> FileDeletedShape:
        """Delete a file and its content, unless a job that has not ended needs it."""
        files = Files(database, registry.store)
        await files.delete(file_id, actor=actor, key_id=owner_filter(request.state.key))
        return FileDeletedShape(file_id)


def file_shape(file: FileRow) -> FileShape:
    """A file as clients see it."""
    return FileShape(
        id=file.id,
        bytes=file.size_bytes,
        created_at=int(file.created_at.timestamp()),
        filename=file.filename,
        purpose=file.purpose,
        expires_at=None if file.expires_at is None else int(file.expires_at.timestamp()),
    )


def disposition(filename: str) -> str:
    """The header by which a browser keeps a download under its name, whatever letters that has (RFC 6266)."""
    plain = "".join(letter if letter.isascii() and letter not in '"\\%' else "_" for letter in filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


async def _pieces(opened: BinaryIO) -> AsyncIterator[bytes]:
    with opened:
        while piece := await asyncio.to_thread(opened.read, _PIECE):
            yield piece
