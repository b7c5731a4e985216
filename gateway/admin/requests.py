"""The request log: read, and deleted by session or end user; and what was used, added up."""

import base64
import binascii
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from litestar import Controller, delete, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from msgspec import UNSET, UnsetType
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.admin.fields import NO_NUL
from gateway.admin.moments import Since, Until, moment
from gateway.errors import InvalidRequest
from gateway.refusals import refusals
from monitors.log.request_log import Place, Wanted, captures, forget, place_of, requests
from monitors.log.usage_report import PARTS, SUMS, Part, Period, usage
from monitors.privacy.names import pseudonym
from registry.registry import Registry

_CURSOR = r"^[0-9]{1,18}\.[0-9a-f]{1,32}$"

_MOST_WITH_TEXT = 100
_USUAL_SPAN = timedelta(days=30)

Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=1000)]
AdapterName = Annotated[str | None, QueryParameter(name="adapter", max_length=255, pattern=NO_NUL)]
KeyId = Annotated[str | None, QueryParameter(name="key", max_length=255, pattern=NO_NUL)]
SessionName = Annotated[str | None, QueryParameter(name="session", min_length=1, max_length=4096)]
UserName = Annotated[str | None, QueryParameter(name="user", min_length=1, max_length=4096)]


class RequestShape(msgspec.Struct, frozen=True):
    """One finished request.

    `session` and `end_user` are pseudonyms. With `text=true` there are also `prompt` and `answer`, without what was
    taken out of them (`redactions` times); they are null where they were not captured or are no longer kept.
    """

    id: str
    request_id: str
    path: str
    key_id: str | None
    adapter: str | None
    model: str | None
    version: int | None
    variant: str | None
    pool: str | None
    status: int
    error: str | None
    finish_reason: str | None
    started_at: datetime
    duration_s: float
    first_byte_s: float | None
    queue_s: float
    overhead_s: float | None
    streamed: bool
    prompt_tokens: int | None
    completion_tokens: int | None
    cost: float | None
    replica: str | None
    retries: int
    session: str | None
    end_user: str | None
    completion_id: str | None
    prompt: Any | UnsetType = UNSET
    answer: str | UnsetType | None = UNSET
    redactions: int | UnsetType | None = UNSET


class RequestPage(msgspec.Struct, frozen=True):
    """Requests; `next` is what `after` takes to go on, and null at the end."""

    data: list[RequestShape]
    has_more: bool
    next: str | None


class ForgottenShape(msgspec.Struct, frozen=True):
    """How many rows were deleted; 0 of all if there was nothing."""

    requests: int
    captures: int
    feedback: int
    scores: int
    observations: int


class UsageShape(msgspec.Struct, frozen=True):
    """What was used in one period; of a part that was not asked for, the value is null.

    Where there is none, a key or adapter is "" and a version 0: requests without a valid key, those of the base
    model. `errors` counts what ended with a status of 400 or more, or broke off; `duration_s` adds up seconds.
    """

    period: datetime | None
    key_id: str | None
    pool: str | None
    adapter: str | None
    version: int | None
    variant: str | None
    requests: int
    errors: int
    prompt_tokens: int
    completion_tokens: int
    duration_s: float
    cost: float


class UsagePage(msgspec.Struct, frozen=True):
    """Sums; `next` is what `after` takes to go on, and null at the end."""

    data: list[UsageShape]
    has_more: bool
    next: str | None


class RequestController(Controller):
    """The request log."""

    path = "/requests"
    tags = ("Requests",)

    @get("/", summary="List finished requests", responses=refusals())
    async def list_requests(
        self,
        database: NamedDependency[AsyncEngine],
        adapter: AdapterName = None,
        version: Annotated[int | None, QueryParameter(name="version", ge=1, le=2**31 - 1)] = None,
        variant: Annotated[str | None, QueryParameter(name="variant", max_length=16, pattern=NO_NUL)] = None,
        key: KeyId = None,
        status: Annotated[int | None, QueryParameter(name="status", ge=100, le=599)] = None,
        session: SessionName = None,
        user: UserName = None,
        since: Since = None,
        until: Until = None,
        order: Annotated[Literal["newest", "oldest"], QueryParameter(name="order")] = "newest",
        text: Annotated[bool, QueryParameter(name="text", description="With what was said.")] = False,
        limit: Annotated[
            int,
            QueryParameter(
                name="limit", ge=1, le=1000, description=f"How many; with `text=true` at most {_MOST_WITH_TEXT}."
            ),
        ] = 100,
        after: Annotated[str | None, QueryParameter(name="after", pattern=_CURSOR)] = None,
    ) -> RequestPage:
        """Requests by their time of arrival; `session` and `user` as the client said them.

        A request appears a second or so after its end. `after` goes on from a page's `next`.
        """
        if text and limit > _MOST_WITH_TEXT:
            raise InvalidRequest(f"limit must be at most {_MOST_WITH_TEXT} with text=true", param="limit")
        wanted = Wanted(
            adapter=adapter,
            version=version,
            variant=variant,
            key_id=key,
            status=status,
            session=None if session is None else pseudonym(session),
            end_user=None if user is None else pseudonym(user),
            since=moment(since, "since"),
            until=moment(until, "until"),
        )
        rows = await requests(database, wanted, after=_place(after), limit=limit + 1, oldest_first=order == "oldest")
        shown = rows[:limit]
        said = await captures(database, [row.id for row in shown]) if text else {}
        has_more = len(rows) > limit
        end = str(Place(shown[-1].started_at, shown[-1].id)) if has_more else None
        return RequestPage([_request(row, said.get(row.id), text=text) for row in shown], has_more, end)

    @delete("/", summary="Delete a session or an end user", status_code=200, responses=refusals())
    async def forget(
        self,
        database: NamedDependency[AsyncEngine],
        registry: NamedDependency[Registry],
        actor: NamedDependency[str],
        session: SessionName = None,
        user: UserName = None,
    ) -> ForgottenShape:
        """Delete all requests of a session or of an end user, with their text, feedback, scores and observations.

        Sums stay, as they name nobody. What ended within the last seconds may be written after it: do it again then.
        """
        if (session is None) == (user is None):
            raise InvalidRequest("say whom to forget: session or user, one of them", param="session")
        name = pseudonym(session if session is not None else user or "")
        found = await forget(database, **{"session" if user is None else "end_user": name})
        deleted = ForgottenShape(**{field: getattr(found, field) for field in ForgottenShape.__struct_fields__})
        kind = "session" if user is None else "end_user"
        await registry.note("forget", f"{kind}:{name}", actor=actor, **msgspec.structs.asdict(deleted))
        return deleted


class UsageController(Controller):
    """Usage."""

    path = "/usage"
    tags = ("Usage",)

    @get("/", summary="Show what was used", responses=refusals())
    async def show_usage(
        self,
        database: NamedDependency[AsyncEngine],
        by: Annotated[list[Part] | None, QueryParameter(name="by", max_items=len(PARTS))] = None,
        per: Annotated[Period, QueryParameter(name="per")] = "day",
        adapter: AdapterName = None,
        key: KeyId = None,
        since: Annotated[
            datetime | None,
            QueryParameter(
                name="since", description="From this moment on; without it 30 days before `until`, or before now."
            ),
        ] = None,
        until: Until = None,
        limit: Limit = 1000,
        after: Annotated[
            str | None, QueryParameter(name="after", max_length=2000, pattern=r"^[A-Za-z0-9_=-]+$")
        ] = None,
    ) -> UsagePage:
        """Requests, tokens, time and cost of each period (UTC), oldest first, apart by the parts that `by` names.

        Every request counts, also one without a valid key or without a row in the log. The log may be gone by then.
        Without `since` it is the last 30 days.
        """
        end = moment(until, "until")
        parts: list[Part] = [part for part in PARTS if part in (by or ())]
        rows = await usage(
            database,
            by=parts,
            per=per,
            adapter=adapter,
            key_id=key,
            since=moment(since, "since") or (end or datetime.now(UTC)) - _USUAL_SPAN,
            until=end,
            after=_decode(after, parts, per) if after else (),
            limit=limit + 1,
        )
        shown, has_more = rows[:limit], len(rows) > limit
        return UsagePage([_usage(row) for row in shown], has_more, _encode(shown[-1], parts, per) if has_more else None)


def _place(after: str | None) -> Place | None:
    try:
        return place_of(after) if after else None
    except ValueError:
        raise _wrong_cursor() from None


def _wrong_cursor() -> InvalidRequest:
    return InvalidRequest("after must be the `next` of a page of the same list", param="after")


def _request(row: Row[Any], said: Row[Any] | None, *, text: bool) -> RequestShape:
    values = {field: getattr(row, field) for field in RequestShape.__struct_fields__ if hasattr(row, field)}
    if text:
        values |= {name: getattr(said, name, None) for name in ("prompt", "answer", "redactions")}
    return RequestShape(**values)


def _usage(row: Row[Any]) -> UsageShape:
    sums: dict[str, Any] = {name: getattr(row, name) for name in SUMS}
    # PostgreSQL adds up whole numbers to a Decimal.
    sums |= {name: int(value) for name, value in sums.items() if name not in ("duration_s", "cost")}
    groups: dict[str, Any] = {part: getattr(row, part, None) for part in PARTS}
    return UsageShape(period=getattr(row, "period", None), **groups, **sums)


def _encode(row: Row[Any], parts: list[Part], per: Period) -> str:
    """Where a page of usage ends, as one word."""
    names = ([] if per == "all" else ["period"]) + list(parts)
    return base64.urlsafe_b64encode(msgspec.json.encode([getattr(row, name) for name in names])).decode()


def _decode(after: str, parts: list[Part], per: Period) -> list[Any]:
    """The values that `_encode` has put there.

    Raises:
        InvalidRequest: it is of another list, or of none.
    """
    types: list[Any] = [] if per == "all" else [datetime]
    types += [int if part == "version" else str for part in parts]
    try:
        values: list[Any] = list(msgspec.json.decode(base64.urlsafe_b64decode(after), type=tuple[tuple(types)]))  # type: ignore[misc]
    except (binascii.Error, msgspec.MsgspecError, ValueError):
        raise _wrong_cursor() from None
    numbers = [value for value in values if isinstance(value, int)]
    words = [value for value in values if isinstance(value, str)]
    if not all(0 <= number < 2**31 for number in numbers) or any("\0" in word for word in words):
        raise _wrong_cursor()
    return [moment(value, "after") if isinstance(value, datetime) else value for value in values]
