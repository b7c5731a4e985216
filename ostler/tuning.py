"""The tuning API as the CLI calls it: files, jobs, what they say, and what their gates said."""

import time
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ostler.client import AdminClient, CommandFailed, segment

ENDED = ("succeeded", "failed", "cancelled")
_UNREACHABLE = 3
_ATTEMPTS = 3
_PAUSE_S = 1.0
_JOBS = 100
_NEWEST, _EVENTS = 100, 1000  # what a job said in a second; all that it said, a page at a time


def upload(client: AdminClient, file: Path, purpose: str = "fine-tune") -> str:
    """Send a file; its id.

    Raises:
        CommandFailed
    """
    try:
        with file.open("rb") as opened:
            sent = {"file": (file.name, opened, "application/octet-stream")}
            answer = client.call("POST", f"{client.url}/v1/files", data={"purpose": purpose}, files=sent)
    except OSError as error:
        raise CommandFailed(f"{file} cannot be read: {error.strerror}", 2) from None
    return str(answer["id"])


def files(client: AdminClient, limit: int, *, after: str | None = None, purpose: str | None = None) -> Any:
    """A page of files as the API lists them, newest first."""
    params = {"limit": limit, "after": after, "purpose": purpose}
    said = {name: value for name, value in params.items() if value is not None}
    return client.call("GET", f"{client.url}/v1/files", params=said)


def delete_file(client: AdminClient, file_id: str) -> Any:
    """Delete a file."""
    return client.call("DELETE", f"{client.url}/v1/files/{segment(file_id)}")


def download_file(client: AdminClient, file_id: str) -> bytes:
    """A file's content."""
    return client.download(f"{client.url}/v1/files/{segment(file_id)}/content")


def create(client: AdminClient, order: dict[str, Any]) -> Any:
    """Ask for a job. What breaks off on the way is sent again with the same key, so that there is one job."""
    headers = {"idempotency-key": uuid.uuid4().hex}
    for attempt in range(_ATTEMPTS):
        try:
            return client.call("POST", jobs_path(client), json=order, headers=headers)
        except CommandFailed as failed:
            if failed.exit_code != _UNREACHABLE or attempt == _ATTEMPTS - 1:
                raise
        time.sleep(_PAUSE_S)
    raise AssertionError("the last attempt ends the loop")


def jobs(
    client: AdminClient, limit: int, *, after: str | None = None, adapter: str | None = None, state: str | None = None
) -> Any:
    """A page of jobs as the API lists them, newest first; of one adapter, in one state, or all.

    The API picks by neither, so its pages are read until there are enough.
    """
    picks = adapter is not None or state is not None
    params: dict[str, Any] = {"limit": _JOBS if picks else limit} | ({"after": after} if after else {})
    found: list[Any] = []
    while True:
        page = client.call("GET", jobs_path(client), params=params)
        if not picks:
            return page
        found += [each for each in page["data"] if _is_picked(each["ostler"], adapter, state)]
        if len(found) > limit or not page["has_more"]:
            break
        params["after"] = page["data"][-1]["id"]
    shown = found[:limit]
    first, last = (shown[0]["id"], shown[-1]["id"]) if shown else (None, None)
    return page | {"data": shown, "has_more": len(found) > limit, "first_id": first, "last_id": last}


def _is_picked(job: Any, adapter: str | None, state: str | None) -> bool:
    return adapter in (None, job["adapter"]) and state in (None, job["state"])


def jobs_path(client: AdminClient, job_id: str = "", what: str = "") -> str:
    """The address of jobs, of one job, or of something of it."""
    parts = [client.url, "v1/fine_tuning/jobs", segment(job_id) if job_id else "", what]
    return "/".join(filter(None, parts))


def job(client: AdminClient, job_id: str) -> Any:
    """One job."""
    return client.call("GET", jobs_path(client, job_id))


def new_events(client: AdminClient, job_id: str, seen: Collection[str]) -> list[Any]:
    """What a job said that was not seen yet, oldest first.

    Pages go from the newest back. Two that were written at once may become visible in the other order, so each page
    is read to its end.
    """
    found: list[Any] = []
    params: dict[str, Any] = {"limit": _NEWEST if seen else _EVENTS}
    while True:
        page = client.call("GET", jobs_path(client, job_id, "events"), params=params)
        unseen = [event for event in page["data"] if event["id"] not in seen]
        found += unseen
        if not page["has_more"] or len(unseen) < len(page["data"]):
            return found[::-1]
        params = {"limit": _EVENTS, "after": page["data"][-1]["id"]}


def version(client: AdminClient, adapter: str, number: int) -> Any:
    """A version with its lineage and its gate's report."""
    return client.call("GET", f"/adapters/{segment(adapter)}/versions/{number}")


def report_of(job: Any) -> Any:
    """What the gate said of what a job made; None if it said nothing, or if the job is not told alone."""
    return job["ostler"].get("report")
