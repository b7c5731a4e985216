"""What clients say of answers: `POST /v1/feedback`."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from litestar import Response, post
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.handlers.base import BaseRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.admin.fields import NO_NUL
from gateway.auth import require
from gateway.directory import Directory
from gateway.errors import InvalidRequest, RateLimited
from gateway.json_body import StrictRequest
from gateway.refusals import refusals
from gateway.settings import GatewaySettings
from gateway.web import key_guard
from monitors.log.feedback import (
    Answered,
    Reference,
    Said,
    StoredFeedback,
    Thumb,
    add_feedback,
    feedback_of_client,
    find_answered,
)
from monitors.privacy.redaction import Redactor
from registry.catalog import ApiKey, Scope
from registry.errors import Conflict, NotFound
from registry.monitoring import Monitoring

_LARGEST_BODY = 1 << 20
_FIRST_PAUSE_S = 0.1
_PAUSE_GROWTH = 3.0  # looks after 0, 0.1, 0.4 and 1.3 s, and at the end
_RETRY_AFTER_S = 1.0
_WORDS = ("comment", "correction")
_SAYS = ("thumb", "score", *_WORDS)

_RequestId = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=NO_NUL)]
_CompletionId = Annotated[str, msgspec.Meta(min_length=1, max_length=160, pattern=NO_NUL)]
_ClientId = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=NO_NUL)]
_Score = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Comment = Annotated[str, msgspec.Meta(min_length=1, max_length=4_000, pattern=NO_NUL)]
_Correction = Annotated[str, msgspec.Meta(min_length=1, max_length=32_000, pattern=NO_NUL)]


class NewFeedback(msgspec.Struct, forbid_unknown_fields=True):
    """What is said of one answer, which `request_id` (its header `x-request-id`) or `completion_id` (its `id`) names.

    At least one of thumb, score, comment and correction (the answer that should have been) is said. With an `id` of the
    client's own the same can be sent again without being counted twice.
    """

    request_id: _RequestId | None = None
    completion_id: _CompletionId | None = None
    thumb: Thumb | None = None
    score: _Score | None = None
    comment: _Comment | None = None
    correction: _Correction | None = None
    id: _ClientId | None = None


class FeedbackShape(msgspec.Struct, frozen=True):
    """A feedback as it is stored: without personal data that was found in its texts.

    `client_id` is the client's own id for it, `version` null for the base model.
    """

    id: str
    request_id: str
    key_id: str
    client_id: str | None
    adapter: str | None
    version: int | None
    variant: str | None
    thumb: Thumb | None
    score: float | None
    comment: str | None
    correction: str | None
    created_at: datetime


def feedback_guard(connection: ASGIConnection[object, object, object, State], handler: BaseRouteHandler) -> None:
    """Let through only keys with the scope `feedback`."""
    key_guard(connection, handler)
    require(connection.state.key, Scope.FEEDBACK)


@post(
    "/v1/feedback",
    tags=["Feedback"],
    summary="Say how good an answer was",
    guards=[feedback_guard],
    request_class=StrictRequest,
    request_max_body_size=_LARGEST_BODY,
    responses={
        200: ResponseSpec(FeedbackShape, generate_examples=False, description="It was given before, under this `id`"),
        **refusals(404, 409, 413, 429),
    },
)
async def give_feedback(
    data: JSONBody[NewFeedback],
    request: StrictRequest,
    database: NamedDependency[AsyncEngine],
    settings: NamedDependency[GatewaySettings],
    directory: NamedDependency[Directory],
) -> Response[FeedbackShape]:
    """Say what an answer was worth, now or weeks later: a thumb, a score from 0 to 1, a comment, or what was right.

    Of the key's own requests; with an admin key of any. If several had the same id, of the newest.
    """
    _check(data)
    key: ApiKey = request.state.key
    answered = await _wait_for(database, _reference(data, key), key, settings.feedback_wait_s)
    said = await asyncio.to_thread(_said, data, settings.redactor)
    new = await add_feedback(database, answered, said, key_id=key.id, now=datetime.now(UTC))
    if new is not None:
        return Response(feedback_shape(new), status_code=201)
    adapter = directory.catalog.adapters.get(answered.adapter or "")
    words_kept = timedelta(days=(adapter.monitoring if adapter else Monitoring()).capture_days)
    before = await _given_before(database, answered, said, key, words_kept)
    return Response(feedback_shape(before), status_code=200)


def _check(order: NewFeedback) -> None:
    if (order.request_id is None) == (order.completion_id is None):
        raise InvalidRequest("say which answer is meant: request_id or completion_id, one of them", param="request_id")
    if all(getattr(order, field) is None for field in _SAYS):
        raise InvalidRequest(f"say at least one of {', '.join(_SAYS)}", param="score")


def _reference(order: NewFeedback, key: ApiKey) -> Reference:
    return Reference(order.request_id, order.completion_id, None if key.may(Scope.ADMIN) else key.id)


class Places:
    """How much feedback of this process may wait for its requests: each looks into the database again and again.

    Args:
        most: of all keys together.
        most_of_key: of one key, so that one that names what never was leaves room for others.
    """

    def __init__(self, most: int, most_of_key: int) -> None:
        self._most = most
        self._most_of_key = most_of_key
        self._taken: Counter[str] = Counter()

    @contextlib.contextmanager
    def place(self, key_id: str) -> Iterator[None]:
        """Hold a place for the block.

        Raises:
            RateLimited: all are taken.
        """
        if self._taken.total() >= self._most or self._taken[key_id] >= self._most_of_key:
            raise RateLimited(
                "too much feedback waits for its requests to be recorded already; please try again in a moment",
                kind="requests",
                headers=[],
                retry_after_s=_RETRY_AFTER_S,
            )
        self._taken[key_id] += 1
        try:
            yield
        finally:
            self._taken[key_id] -= 1
            self._taken += Counter()  # forgets keys without any


_PLACES = Places(16, 8)


async def _wait_for(database: AsyncEngine, reference: Reference, key: ApiKey, patience_s: float) -> Answered:
    """The request that is meant; it is recorded a moment after its answer, maybe by another gateway.

    Raises:
        NotFound: there is none that this key may see; what it may not see is waited for just as long.
        RateLimited: it is not there yet, and too many wait already.
    """
    answered = await _find(database, reference, key)
    if answered is None and patience_s > 0:
        with _PLACES.place(key.id):
            answered = await _look_again(database, reference, key, time.monotonic() + patience_s)
    if answered is None:
        raise NotFound("there is no answer of this id to a request of this API key, or it is no longer kept")
    return answered


async def _look_again(database: AsyncEngine, reference: Reference, key: ApiKey, deadline: float) -> Answered | None:
    """Look after pauses that grow, the last time at the deadline."""
    pause = _FIRST_PAUSE_S
    while (left_s := deadline - time.monotonic()) > 0:
        await asyncio.sleep(min(pause, left_s))
        if (answered := await _find(database, reference, key)) is not None:
            return answered
        pause *= _PAUSE_GROWTH
    return None


async def _find(database: AsyncEngine, reference: Reference, key: ApiKey) -> Answered | None:
    """Also what a key was once allowed to use is hidden from it when it no longer is."""
    answered = await find_answered(database, reference)
    if answered is None or key.may(Scope.ADMIN) or key.may_use(answered.adapter or answered.base or ""):
        return answered
    return None


def _said(order: NewFeedback, redactor: Redactor) -> Said:
    """What is stored of it. Long texts take a while to look through, so this runs in a thread."""
    comment = None if order.comment is None else redactor.redact(order.comment).text
    correction = None if order.correction is None else redactor.redact(order.correction).text
    return Said(order.thumb, order.score, comment, correction, order.id)


async def _given_before(
    database: AsyncEngine, answered: Answered, said: Said, key: ApiKey, words_kept: timedelta
) -> StoredFeedback:
    """The feedback that the key has given under the same id; texts are kept for so long.

    Raises:
        Conflict: it says something else, or of another answer.
    """
    assert said.client_id is not None, "without one no feedback is like another"
    before = await feedback_of_client(database, key.id, said.client_id)
    if before is None or before.record_id != answered.id or not _is_same(before, said, words_kept):
        raise Conflict("this API key has given other feedback under this id; take a new id for each", param="id")
    return before


def _is_same(before: StoredFeedback, said: Said, words_kept: timedelta) -> bool:
    """Whether it says the same; texts that retention has cleared by now are not compared."""
    if datetime.now(UTC) - before.created_at >= words_kept:
        said = replace(said, **{name: None for name in _WORDS if getattr(before, name) is None})
    return before.said == said


def feedback_shape(feedback: StoredFeedback) -> FeedbackShape:
    """A feedback as clients and admins see it."""
    return FeedbackShape(
        id=feedback.id,
        request_id=feedback.request_id,
        key_id=feedback.key_id,
        client_id=feedback.client_id,
        adapter=feedback.adapter,
        version=feedback.version,
        variant=feedback.variant,
        thumb=feedback.thumb,
        score=feedback.score,
        comment=feedback.comment,
        correction=feedback.correction,
        created_at=feedback.created_at,
    )
