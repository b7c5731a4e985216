"""Webhooks: where events are told, and what became of each."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from litestar import Controller, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.admin.fields import NO_NUL
from gateway.admin.keys import RotationOrder
from gateway.json_body import StrictRequest
from gateway.refusals import refusals
from gateway.shapes import Page
from monitors.webhooks import deliveries
from monitors.webhooks.events import Event
from monitors.webhooks.hooks import LONGEST_URL, SWITCHED_OFF, Webhook, Webhooks
from monitors.webhooks.queue import enqueue_test
from registry.database import writing
from registry.errors import Conflict

_Events = Annotated[list[Event], msgspec.Meta(min_length=1, max_length=100)]
_Adapter = Annotated[str, msgspec.Meta(min_length=1, max_length=63, pattern=NO_NUL)]
_Adapters = Annotated[list[_Adapter], msgspec.Meta(min_length=1, max_length=1000)]
DeliveryState = Literal["held", "queued", "delivered", "dead"]


class NewWebhook(msgspec.Struct, forbid_unknown_fields=True):
    """The webhook to make; without `events` or `adapters` it is told all."""

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_URL, pattern=NO_NUL)]
    events: _Events | None = None
    adapters: _Adapters | None = None


class WebhookPatch(msgspec.Struct, forbid_unknown_fields=True):
    """Whether the webhook is told of events."""

    enabled: bool


class WebhookShape(msgspec.Struct, frozen=True):
    """A webhook without its secret.

    Null as `events` or `adapters` is all of them. `previous_valid_until` is until when the secret that was replaced
    last signs, too; null if it does not. `disabled_at` is since when nothing is told, null where it is.
    """

    id: str
    url: str
    events: list[str] | None
    adapters: list[str] | None
    created_by: str
    created_at: datetime
    previous_valid_until: datetime | None
    disabled_at: datetime | None


class NewWebhookShape(msgspec.Struct, frozen=True):
    """A webhook with a new secret, which is shown this once."""

    secret: str
    webhook: WebhookShape


class DeliveryShape(msgspec.Struct, frozen=True):
    """One event for one webhook; `id` is the `webhook-id` that the receiver sees.

    A delivery that is `held` waits for what it tells of to be carried out, one that is `dead` was given up. `attempts`
    counts those that failed, `error` is why the last one did, and `next_at` when the next one is.
    """

    id: str
    webhook: str
    event: str
    state: DeliveryState
    attempts: int
    error: str | None
    created_at: datetime
    next_at: datetime | None
    delivered_at: datetime | None
    body: dict[str, Any]


class WebhookController(Controller):
    """Where events are told."""

    path = "/webhooks"
    tags = ("Webhooks",)
    request_class = StrictRequest

    @post("/", summary="Create a webhook", responses=refusals(409, 413, 422))
    async def create(
        self, data: JSONBody[NewWebhook], database: NamedDependency[AsyncEngine], actor: NamedDependency[str]
    ) -> NewWebhookShape:
        """Have events told to an address from now on; the secret that signs them is in this answer and nowhere else."""
        made, secret = await Webhooks(database).add(data.url, events=data.events, adapters=data.adapters, actor=actor)
        return NewWebhookShape(secret, _shape(made))

    @get("/", summary="List webhooks", responses=refusals())
    async def list_webhooks(self, database: NamedDependency[AsyncEngine]) -> Page[WebhookShape]:
        """Every webhook, oldest first; never a secret."""
        return Page([_shape(each) for each in await Webhooks(database).listed()])

    @get("/{webhook_id:str}", summary="Show a webhook", responses=refusals(404))
    async def show(self, webhook_id: FromPath[str], database: NamedDependency[AsyncEngine]) -> WebhookShape:
        """One webhook; never its secret."""
        return _shape(await Webhooks(database).find(webhook_id))

    @patch("/{webhook_id:str}", summary="Switch a webhook on or off", responses=refusals(404, 413))
    async def switch(
        self,
        webhook_id: FromPath[str],
        data: JSONBody[WebhookPatch],
        database: NamedDependency[AsyncEngine],
        actor: NamedDependency[str],
    ) -> WebhookShape:
        """Events that come while it is off are never told; what waits when it is switched off can be sent again."""
        return _shape(await Webhooks(database).switch(webhook_id, on=data.enabled, actor=actor))

    @delete("/{webhook_id:str}", summary="Delete a webhook", status_code=200, responses=refusals(404))
    async def remove(
        self, webhook_id: FromPath[str], database: NamedDependency[AsyncEngine], actor: NamedDependency[str]
    ) -> WebhookShape:
        """Tell it nothing any more, not even what waits; the answer is what it was."""
        return _shape(await Webhooks(database).remove(webhook_id, actor=actor))

    @post(
        "/{webhook_id:str}/rotate",
        summary="Replace a webhook's secret",
        status_code=200,
        responses=refusals(404, 413),
    )
    async def rotate(
        self,
        webhook_id: FromPath[str],
        database: NamedDependency[AsyncEngine],
        actor: NamedDependency[str],
        data: JSONBody[RotationOrder | None] = None,
    ) -> NewWebhookShape:
        """Give it a new secret, which is in this answer and nowhere else; both sign for a while."""
        overlap = timedelta(seconds=(data or RotationOrder()).overlap_s)
        found, secret = await Webhooks(database).rotate(webhook_id, overlap=overlap, actor=actor)
        return NewWebhookShape(secret, _shape(found))

    @post("/{webhook_id:str}/test", summary="Try a webhook", status_code=202, responses=refusals(404, 409))
    async def try_out(self, webhook_id: FromPath[str], database: NamedDependency[AsyncEngine]) -> DeliveryShape:
        """Queue an `ostler.test` for it, which a monitor sends within seconds, once."""
        if (await Webhooks(database).find(webhook_id)).disabled_at is not None:
            raise Conflict(f"{SWITCHED_OFF}; switch it on first")
        async with writing(database) as connection:
            return _delivery(await enqueue_test(connection, webhook_id, datetime.now(UTC)))


class DeliveryController(Controller):
    """What was told, and what was not."""

    path = "/webhooks/deliveries"
    tags = ("Webhooks",)
    request_class = StrictRequest

    @get("/", summary="List deliveries of webhooks", responses=refusals())
    async def list_deliveries(
        self,
        database: NamedDependency[AsyncEngine],
        delivery_state: Annotated[DeliveryState | None, QueryParameter(name="state")] = None,
        webhook: Annotated[str | None, QueryParameter(name="webhook", max_length=32, pattern=NO_NUL)] = None,
        limit: Annotated[int, QueryParameter(name="limit", ge=1, le=1000)] = 100,
        before: Annotated[str | None, QueryParameter(name="before", max_length=32, pattern=NO_NUL)] = None,
    ) -> Page[DeliveryShape]:
        """Newest first; `before` goes on from a delivery's id."""
        async with database.connect() as connection:
            rows = await deliveries.list_deliveries(
                connection, state=delivery_state, webhook=webhook, before=before, limit=limit + 1
            )
        return Page([_delivery(row) for row in rows[:limit]], has_more=len(rows) > limit)

    @get("/{delivery_id:str}", summary="Show a delivery of a webhook", responses=refusals(404))
    async def show(self, delivery_id: FromPath[str], database: NamedDependency[AsyncEngine]) -> DeliveryShape:
        """One delivery, and what is sent."""
        async with database.connect() as connection:
            return _delivery(await deliveries.find_delivery(connection, delivery_id))

    @post(
        "/{delivery_id:str}/retry",
        summary="Send a delivery of a webhook again",
        status_code=202,
        responses=refusals(404, 409),
    )
    async def send_again(self, delivery_id: FromPath[str], database: NamedDependency[AsyncEngine]) -> DeliveryShape:
        """Begin it anew, under the same id, whatever became of it; a monitor sends it within seconds."""
        return _delivery(await deliveries.send_again(database, delivery_id, datetime.now(UTC)))

    @delete(
        "/{delivery_id:str}",
        summary="Drop a delivery that was given up",
        status_code=200,
        responses=refusals(404, 409),
    )
    async def drop(self, delivery_id: FromPath[str], database: NamedDependency[AsyncEngine]) -> DeliveryShape:
        """Take it off the list of dead letters for good."""
        return _delivery(await deliveries.drop(database, delivery_id))


def _shape(webhook: Webhook) -> WebhookShape:
    return WebhookShape(
        id=webhook.id,
        url=webhook.url,
        events=None if webhook.events is None else list(webhook.events),
        adapters=None if webhook.adapters is None else list(webhook.adapters),
        created_by=webhook.created_by,
        created_at=webhook.created_at,
        previous_valid_until=_if_later(webhook.previous_until),
        disabled_at=webhook.disabled_at,
    )


def _if_later(moment: datetime | None) -> datetime | None:
    return None if moment is None or moment <= datetime.now(UTC) else moment


def _delivery(row: Row[Any]) -> DeliveryShape:
    return DeliveryShape(
        id=row.id,
        webhook=row.webhook,
        event=row.event,
        state=row.state,
        attempts=row.attempts,
        error=row.error,
        created_at=row.created_at,
        next_at=row.next_at if row.state == "queued" else None,
        delivered_at=row.delivered_at,
        body=row.body,
    )
