"""Uploads: received in a folder that is gone afterwards, whatever happened; pushed archives are unpacked there."""

import asyncio
import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from litestar.exceptions import ClientException, InternalServerException

from gateway.errors import BodyTooLarge, BodyTooSlow, InvalidRequest
from gateway.settings import GatewaySettings
from gateway.web import AnyRequest
from registry.archive import UnpackLimits, unpack
from registry.artifacts import store_failures

_UPLOADS = "uploads"
_LOCK = "lock"


def sweep_uploads(cache: Path) -> None:
    """Delete what uploads left that were cut off together with their gateway; those under way hold their lock."""
    for lock in (cache / _UPLOADS).glob(f"*/{_LOCK}"):
        with contextlib.suppress(OSError), lock.open() as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent)


@contextlib.asynccontextmanager
async def uploaded(request: AnyRequest, settings: GatewaySettings) -> AsyncIterator[Path]:
    """The folder that the request's body holds as an archive; it is gone after the block."""
    with scratch(settings.cache) as own:
        archive, folder = own / "upload", own / "content"
        with store_failures("take the upload"):
            await _save(request, archive, settings)
            limits = UnpackLimits(max_bytes=settings.max_push_bytes)
            await asyncio.to_thread(unpack, archive, folder, limits=limits)
            archive.unlink()
        yield folder


@contextlib.contextmanager
def scratch(cache: Path) -> Iterator[Path]:
    """A folder for one upload, locked for as long as this process lives."""
    uploads = cache / _UPLOADS
    with store_failures("take the upload"):
        uploads.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=uploads, ignore_cleanup_errors=True)
    with temporary as name:
        folder = Path(name)
        with (folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder


async def chunks(request: AnyRequest, patience_s: float) -> AsyncIterator[bytes]:
    """The body as it comes.

    Raises:
        InvalidRequest: the client went away before its end.
        BodyTooSlow: nothing came for so long; without this, one that vanished would hold its half for ever.
    """
    stream = request.stream()
    try:
        while True:
            async with asyncio.timeout(patience_s):
                chunk = await anext(stream, None)
            if chunk is None:
                return
            if chunk:
                yield chunk
    except TimeoutError:
        raise BodyTooSlow(f"nothing more of the upload came for {patience_s:g} s") from None
    except (ClientException, InternalServerException) as error:
        raise InvalidRequest("the upload broke off before its end") from error


async def _save(request: AnyRequest, file: Path, settings: GatewaySettings) -> None:
    size, limit = 0, settings.max_push_bytes
    with file.open("wb") as opened:
        async for chunk in chunks(request, settings.body_timeout_s):
            size += len(chunk)
            if size > limit:
                raise BodyTooLarge(f"the pushed archive is larger than the limit of {limit} bytes")
            await asyncio.to_thread(opened.write, chunk)
