"""Pushed archives: received, unpacked and checked in a folder that is gone afterwards, whatever happened."""

import asyncio
import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from litestar.exceptions import ClientException

from gateway.errors import BodyTooLarge, InvalidRequest
from gateway.settings import GatewaySettings
from gateway.web import AnyRequest
from registry.archive import UnpackLimits, unpack
from registry.artifacts import store_failures

_UPLOADS = "uploads"
_LOCK = "lock"


def sweep_uploads(cache: Path) -> None:
    """Delete what pushes left that were cut off together with their gateway; those under way hold their lock."""
    for lock in (cache / _UPLOADS).glob(f"*/{_LOCK}"):
        with contextlib.suppress(OSError), lock.open() as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent)


@contextlib.asynccontextmanager
async def uploaded(request: AnyRequest, settings: GatewaySettings) -> AsyncIterator[Path]:
    """The folder that the request's body holds as an archive; it is gone after the block."""
    with _scratch(settings.cache / _UPLOADS) as scratch:
        archive, folder = scratch / "upload", scratch / "content"
        with store_failures("take the upload"):
            await _save(request, archive, settings.max_push_bytes)
            limits = UnpackLimits(max_bytes=settings.max_push_bytes)
            await asyncio.to_thread(unpack, archive, folder, limits=limits)
            archive.unlink()
        yield folder


@contextlib.contextmanager
def _scratch(uploads: Path) -> Iterator[Path]:
    """A folder for one push, locked for as long as this process lives."""
    uploads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=uploads, ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        with (scratch / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield scratch


async def _save(request: AnyRequest, file: Path, limit: int) -> None:
    size = 0
    with file.open("wb") as opened:
        async for chunk in _chunks(request):
            size += len(chunk)
            if size > limit:
                raise BodyTooLarge(f"the pushed archive is larger than the limit of {limit} bytes")
            await asyncio.to_thread(opened.write, chunk)


async def _chunks(request: AnyRequest) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientException as error:
        raise InvalidRequest("the upload broke off before its end") from error
