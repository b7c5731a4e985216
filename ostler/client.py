"""The admin API as the CLI calls it."""

import os
import re
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import httpx

from registry.home import cache_home, data_home
from registry.keys import hint

DEFAULT_URL = "http://127.0.0.1:8080"
KEY_FILE = "admin.key"
ADDRESS_FILE = "address"
_TIMEOUT = httpx.Timeout(30.0, read=300.0)
_PAGE = 500
_NOT_FOUND, _UNAUTHENTICATED = 404, 401
_PROBES = "probes.json"  # the version's own proof, see `registry.probes`
_PLACE_IN_BODY = re.compile(r"^the body(, at '(?P<field>[^']*)')?: ")
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")


class CommandFailed(Exception):
    """The command could not be done; `exit_code` tells programs why.

    1: the gateway refused it, 2: the command line is wrong, 3: the gateway could not be reached. `status` is the
    HTTP status that it refused it with.
    """

    def __init__(self, message: str, exit_code: int = 1, status: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.status = status


class AdminClient:
    """Calls a gateway's admin API.

    Args:
        url: the gateway's address; empty means `OSTLER_URL`, else the one of the last `ostler up` on this machine.
        key: an admin key; empty means `OSTLER_API_KEY`, else the one that `ostler up` wrote on this machine.
    """

    def __init__(self, url: str = "", key: str = "") -> None:
        self.url = (url or os.environ.get("OSTLER_URL") or _kept_here(ADDRESS_FILE) or DEFAULT_URL).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise CommandFailed(f"{self.url!r} is not an address; it must begin with http:// or https://", 2)
        key = key or os.environ.get("OSTLER_API_KEY") or _kept_here(KEY_FILE)
        if not key:
            raise CommandFailed("no API key: set OSTLER_API_KEY, or pass --api-key", 2)
        if not (key.isascii() and key.isprintable()):
            raise CommandFailed("the API key holds characters that no key has; copy it again", 2)
        headers = {"authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=self.url + "/admin/v1", headers=headers, timeout=_TIMEOUT)

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """One call; the answer's JSON.

        Raises:
            CommandFailed
        """
        response = self._send(method, path, **arguments)
        try:
            return response.json()
        except ValueError as error:
            raise CommandFailed(f"what answers at {self.url} is not an Ostler gateway", 3) from error

    def download(self, path: str) -> bytes:
        """The content of an answer that is not JSON.

        Raises:
            CommandFailed
        """
        return self._send("GET", path).content

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.InvalidURL as error:
            raise CommandFailed(f"{self.url!r} is not an address: {error}", 2) from error
        except httpx.TransportError as error:
            raise CommandFailed(
                f"no gateway answers at {self.url} ({type(error).__name__}); start one, or set OSTLER_URL", 3
            ) from error
        if response.is_error:
            raise CommandFailed(_refusal(response), status=response.status_code)
        return response

    def push(self, source: Path, adapter: str, *, base: str | None, note: str) -> Any:
        """Send a PEFT folder, or an archive of one, as a version of `adapter`."""
        params = {"note": note} | ({"base": base} if base else {})
        with _archive(source) as archive:
            return self.call("POST", f"/adapters/{segment(adapter)}/versions", params=params, content=_chunks(archive))

    def adapters(self) -> Any:
        """All adapters, however many pages they are."""
        found: list[Any] = []
        page = {"data": [], "has_more": True}
        while page["has_more"]:
            after = {"after": found[-1]["name"]} if found else {}
            page = self.call("GET", "/adapters", params={"limit": _PAGE, **after})
            found += page["data"]
        return {"data": found, "has_more": False}

    def has_model(self, name: str) -> bool:
        """Whether an adapter or a base model of that name exists."""
        try:
            self.call("GET", f"/adapters/{segment(name)}")
        except CommandFailed as failed:
            if failed.status != _NOT_FOUND:
                raise
            return any(replica["pool"] == name for replica in self.call("GET", "/replicas")["data"])
        return True

    def deploy(self, adapter: str, change: dict[str, Any], if_revision: int | None = None) -> Any:
        """Change what an adapter's name serves, only on that revision if one is said."""
        path = f"/adapters/{segment(adapter)}/deployment"
        return self.call("PATCH", path, json=change, headers=_if_match(if_revision))

    def rollback(self, adapter: str, order: dict[str, Any], if_revision: int | None = None) -> Any:
        """Restore an earlier revision, only on that revision if one is said."""
        path = f"/adapters/{segment(adapter)}/rollback"
        return self.call("POST", path, json=order, headers=_if_match(if_revision))


def _if_match(revision: int | None) -> dict[str, str]:
    return {} if revision is None else {"if-match": f'"{revision}"'}


def home() -> Path:
    """The folder where `ostler up` keeps its state, as far as the environment says."""
    return Path(os.environ.get("OSTLER_HOME") or data_home())


def _kept_here(name: str) -> str:
    """What `ostler up` wrote for us; empty if it never ran here."""
    try:
        return (home() / name).read_text().strip()
    except OSError:
        return ""


def keep_new_secret(old_hint: str, secret: str) -> bool:
    """Have the key file of this machine hold a key's new secret, if it held the old one; whether it did.

    Raises:
        OSError: it cannot be written.
    """
    held = _kept_here(KEY_FILE)
    if not held or hint(held) != old_hint:
        return False
    write_secret(home() / KEY_FILE, secret)
    return True


def write_secret(file: Path, secret: str) -> None:
    """Write a secret so that nobody else can read it, not even for a moment; the file holds the old or the new one."""
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(secret + "\n")
    new.replace(file)


def _refusal(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
        words = _PLACE_IN_BODY.sub(_field, error["message"])
        told = f"{words} ({response.status_code} {error['code']})"
    except (ValueError, KeyError, TypeError):
        return f"the gateway answered {response.status_code}"
    if response.status_code == _UNAUTHENTICATED:
        told += "; where the gateway's database is, `ostler keys create NAME --admin --local` makes an admin key"
    return told


def _field(place: re.Match[str]) -> str:
    """Who types a command sees no body, only what its parts are called."""
    return f"{place['field']}: " if place["field"] else ""


def segment(name: str) -> str:
    """A name as one part of a path; the gateway says what is wrong with it.

    Raises:
        CommandFailed: as a part of a path it would mean another path.
    """
    if name in ("", ".", ".."):
        raise CommandFailed(f"{name!r} is not a name", 2)
    return quote(name, safe="@")


@contextmanager
def _archive(source: Path) -> Iterator[IO[bytes]]:
    """The archive to send: `source` itself, or a tar of the folder's adapter files."""
    if source.is_file():
        if not source.name.endswith(_ARCHIVES):
            raise CommandFailed(f"{source} is neither a folder nor a {', '.join(_ARCHIVES)} file", 2)
        with source.open("rb") as opened:
            yield opened
        return
    if not source.is_dir():
        raise CommandFailed(f"there is no folder {source}", 2)
    files = [file for file in sorted(source.glob("adapter_*")) if file.is_file()]
    if not files:
        raise CommandFailed(f"{source} is no PEFT adapter: it holds no adapter_config.json", 2)
    if (source / _PROBES).is_file():
        files.append(source / _PROBES)
    cache_home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=cache_home()) as packed:
        # Links are followed, because the Hugging Face cache is made of them; the gateway takes none.
        with tarfile.open(fileobj=packed, mode="w", dereference=True) as tar:
            for file in files:
                tar.add(file, arcname=file.name)
        packed.seek(0)
        yield packed


def _chunks(opened: IO[bytes]) -> Iterator[bytes]:
    while chunk := opened.read(1 << 20):
        yield chunk
