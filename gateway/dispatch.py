"""From a request's route to its answer: a place, a replica, and another one where that is right.

A request is sent again only before its first byte, and only as far as the retry budget goes. A version that fails on
every replica is left alone for a while, and the deployment's fallback serves instead.
"""

import asyncio
import logging
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from gateway.body import Body
from gateway.engines.connections import Reply
from gateway.engines.engine import is_stopping, lacks_model
from gateway.engines.failures import EngineDown
from gateway.engines.fleet import Fleet
from gateway.engines.picking import Need
from gateway.engines.replica import Lease, Replica
from gateway.errors import (
    DeadlineExceeded,
    EngineBroke,
    EngineCrowded,
    EngineUnavailable,
    Overloaded,
    VersionNotServable,
)
from gateway.exchange import Exchange
from gateway.limits.admission import Admission, RetryBudget
from gateway.priority import PRIORITY_HEADER, LowPriority
from gateway.relay import Send, relay, whole
from gateway.routing import Route
from monitors.metrics import Metrics

log = logging.getLogger(__name__)

Resolve = Callable[[Exchange, str], Route]
_SENDS_THAT_MAY_FAIL = 2
_LOADS_THAT_MAY_BREAK = 2
_RETRY_PAUSE_S = 0.05
_RETRY_AFTER_S = 5.0


class Outbound(Struct, frozen=True, eq=False):
    """A request as it goes to the engines; only the model's name depends on which version serves it.

    Attributes:
        keep_usage: whether the client gets the event that tells the tokens of a stream.
    """

    exchange: Exchange
    body: Body
    headers: dict[str, str]
    keep_usage: bool
    send: Send


class Dispatcher:
    """Has requests answered.

    Args:
        resolve: finds the route of a request anew, after a version turned out to fail.
        retry_ratio: the share of requests that may be sent again.
        retry_reserve: how many may be at once, as when a replica with many requests dies.
        low_priority: what evaluations ask the engines for.
    """

    def __init__(
        self,
        fleet: Fleet,
        admission: Admission,
        metrics: Metrics,
        resolve: Resolve,
        *,
        retry_ratio: float,
        retry_reserve: float,
        low_priority: LowPriority,
    ) -> None:
        self._fleet = fleet
        self._admission = admission
        self._metrics = metrics
        self._resolve = resolve
        self._low_priority = low_priority
        self._retries = RetryBudget(retry_ratio, retry_reserve)

    async def answer(self, outbound: Outbound) -> None:
        """Wait for a place, and have the request answered by what its route says, or by what that falls back on.

        Raises:
            GatewayError: why it was not.
        """
        exchange = outbound.exchange
        assert exchange.route is not None
        self._retries.earn()
        while True:
            route = exchange.route
            try:
                need = _need(exchange, route)
                if not self._fleet.can_serve_now(need):
                    await self._until_it_can_be_served(exchange, route, need)
                self._let_clients_go_first(exchange)
                if not self._admission.take_free():
                    await self._queue(exchange, route)
                try:
                    await self._until_answered(outbound, route, need)
                finally:
                    self._admission.give_back()
                return
            except VersionNotServable as refused:
                assert route.version is not None
                self._fleet.breakers.failed(route.version.engine_name, certain=True)
                try:
                    exchange.route = self._resolve(exchange, exchange.model)
                except EngineUnavailable:  # nothing to fall back on; why it is so says more
                    raise _as_unavailable(refused) from refused
                exchange.broken_loads = 0

    def _let_clients_go_first(self, exchange: Exchange) -> None:
        """Turn away what no client waits for, while clients' requests wait or are about to.

        Raises:
            Overloaded
        """
        if exchange.evaluates and (self._admission.is_full or self._fleet.is_busy()):
            self._metrics.rejected.labels("clients_first").inc()
            raise Overloaded("clients' requests come before evaluations, and some wait", retry_after_s=_RETRY_AFTER_S)

    async def _until_it_can_be_served(self, exchange: Exchange, route: Route, need: Need) -> None:
        """Wait for a replica, and for the version's load, without a place: others could use it meanwhile."""
        while not self._fleet.can_serve_now(need):
            try:
                with await self._lease(exchange, route, need, counts=_counts(exchange)):
                    return
            except (VersionNotServable, EngineUnavailable) as error:
                need = self._without(exchange, need, error)
                await self._pause(exchange)

    async def _queue(self, exchange: Exchange, route: Route) -> None:
        waited = await self._admission.take(route.adapter or "", exchange.deadline)
        exchange.queue_s += waited
        exchange.waits.seconds += waited

    def _lease_now(self, exchange: Exchange, route: Route, need: Need, *, counts: bool) -> Lease | None:
        """As `_lease`, if nothing must be waited for; what an engine has lost is left to that, which may give it up."""
        return None if exchange.lost else self._fleet.lease_now(route.version, need, counts=counts)

    async def _lease(self, exchange: Exchange, route: Route, need: Need, *, counts: bool) -> Lease:
        """A replica that holds the version, however long that takes.

        Raises:
            EngineCrowded: the deadline came while other versions kept taking its room.
        """
        try:
            with exchange.waits:
                lease = await self._fleet.lease(route.version, need, exchange.deadline, counts=counts)
        except DeadlineExceeded:
            if not exchange.lost:
                raise
            raise _crowded(route) from None
        if exchange.lost and exchange.left_s <= _RETRY_PAUSE_S:
            with lease:
                raise _crowded(route)
        return lease

    def _without(self, exchange: Exchange, need: Need, error: VersionNotServable | EngineUnavailable) -> Need:
        """The same need after a replica refused the version or went away.

        Raises:
            VersionNotServable: every replica refuses it, or it breaks them.
            EngineUnavailable: no replica came in time.
        """
        if error.replica is None:
            raise error
        if isinstance(error, EngineCrowded):
            exchange.lost += 1
            if exchange.left_s <= _RETRY_PAUSE_S:
                raise error
        if isinstance(error, EngineBroke):
            self._require_another_load(exchange, need, error)
        tried = replace(need, tried=need.tried | {error.replica})
        if isinstance(error, VersionNotServable) and not self._fleet.has_untried(tried):
            raise error
        return tried

    def _require_another_load(self, exchange: Exchange, need: Need, broke: EngineBroke) -> None:
        """Whether another engine is to load what may have broken one.

        Raises:
            VersionNotServable: not this version, which nothing serves.
            EngineBroke: not for this request.
        """
        assert need.name is not None
        exchange.broken_loads += 1
        if exchange.broken_loads < _LOADS_THAT_MAY_BREAK and self._fleet.breakers.is_closed(need.name):
            return
        if need.name in self._fleet.resident:
            raise broke
        raise VersionNotServable(broke.message) from broke

    async def _until_answered(self, outbound: Outbound, route: Route, need: Need) -> None:
        """Send the request to one replica after the other until an answer begins, and relay that.

        Raises:
            VersionNotServable: every replica refuses the version.
        """
        exchange = outbound.exchange
        data = outbound.body.encode_for(route.model)
        while True:
            counts = _counts(exchange)
            try:
                lease = self._lease_now(exchange, route, need, counts=counts)
                if lease is None:
                    lease = await self._lease(exchange, route, need, counts=counts)
                with lease as found:
                    exchange.replica = found.id
                    need = replace(need, tried=need.tried | {found.id})
                    if await self._send(outbound, found, route, data, need):
                        return
            except (VersionNotServable, EngineUnavailable) as error:
                need = self._without(exchange, need, error)
            if not self._fleet.has_untried(need):
                await self._pause(exchange)

    async def _send(self, outbound: Outbound, replica: Replica, route: Route, data: bytes, need: Need) -> bool:
        """One try on one replica; whether it is over.

        Raises:
            DeadlineExceeded, EngineUnavailable: it failed, and is not to be sent again.
        """
        exchange = outbound.exchange
        exchange.sends += 1
        try:
            with exchange.trace.send(replica.id, route.model, outbound.headers) as sent:
                with exchange.waits:
                    left_s = max(0.001, exchange.left_s)
                    answer = await replica.engine.forward(exchange.path, data, sent.headers, left_s)
                with answer:
                    exchange.prepare()  # while the engine works
                    with exchange.waits:
                        await answer.begin()
                    sent.answered(answer.status)
                    return await self._take(outbound, replica, route, answer, need)
        except EngineDown as down:
            self._after_no_answer(exchange, replica, down)
            return False

    async def _take(self, outbound: Outbound, replica: Replica, route: Route, answer: Reply, need: Need) -> bool:
        """Relay what the engine answers, unless it is worth another try.

        Raises:
            EngineDown: no answer came, of which the client would know.
        """
        exchange = outbound.exchange
        try:
            if answer.status == 404 and await self._has_lost(exchange, replica, route, answer):
                return False  # it was surely not served, so nothing is repeated
            if answer.status == 400 and await self._refused_priority(outbound, answer):
                return False
            if answer.status >= 500 and is_stopping(answer.status, await whole(exchange, answer)):
                replica.is_stopping()
                return False  # it never ran, so nothing is repeated
            if answer.status < 500 or await self._is_healthy(exchange, replica):
                if self._judged_worth_another(exchange, replica, route, answer, need):
                    return False
                await relay(exchange, answer, outbound.keep_usage, outbound.send)
                return True
        except EngineDown:
            # Only a whole answer that never came ends here; a stream that broke was told to the client.
            log.info("request %s is sent again: the engine broke off", exchange.request_id)
        raise EngineDown(sent=True)

    async def _is_healthy(self, exchange: Exchange, replica: Replica) -> bool:
        with exchange.waits:
            return await replica.engine.is_healthy()

    async def _refused_priority(self, outbound: Outbound, answer: Reply) -> bool:
        """Whether an engine refused the low priority that we asked for, which it is then sent again without."""
        exchange = outbound.exchange
        if not exchange.evaluates:
            return False
        if not self._low_priority.was_refused(outbound.headers, await whole(exchange, answer)):
            return False
        outbound.headers.pop(PRIORITY_HEADER, None)
        return True

    async def _pause(self, exchange: Exchange) -> None:
        with exchange.waits:
            await asyncio.sleep(_RETRY_PAUSE_S)

    def _judged_worth_another(
        self, exchange: Exchange, replica: Replica, route: Route, answer: Reply, need: Need
    ) -> bool:
        """Note how the version did; whether its failure is worth a try on another replica."""
        if answer.status < 500:
            if route.version is not None and answer.status < 400:
                self._fleet.breakers.succeeded(route.version.engine_name)
            return False
        replica.suspect(in_doubt=True)
        if route.version is not None and not exchange.doubted:
            self._fleet.doubt(route.version, replica)
        exchange.doubted = True
        return self._fleet.has_untried(need) and self._may_retry("engine_error")

    async def _has_lost(self, exchange: Exchange, replica: Replica, route: Route, answer: Reply) -> bool:
        """Whether a 404 says that the engine lacks the version, as after a restart, not that it lacks something else.

        Raises:
            EngineDown
        """
        if route.version is None or not lacks_model(await whole(exchange, answer), route.model):
            return False
        exchange.lost += 1
        replica.has_lost(route.version)
        return True

    def _after_no_answer(self, exchange: Exchange, replica: Replica, down: EngineDown) -> None:
        """Go on to another try, unless the time is over or the request itself may be what breaks the engines.

        Raises:
            DeadlineExceeded, EngineUnavailable
        """
        if exchange.left_s <= _RETRY_PAUSE_S:
            raise DeadlineExceeded("the engine did not answer within the request's deadline", retry_after_s=1.0)
        if not down.sent:
            replica.refused_connection()  # nothing was sent, so nothing is repeated
            return
        replica.suspect()
        exchange.broken += 1
        if exchange.broken >= _SENDS_THAT_MAY_FAIL or not self._may_retry("engine_down"):
            raise EngineUnavailable("the engine broke off before it answered", retry_after_s=_RETRY_AFTER_S)

    def _may_retry(self, reason: str) -> bool:
        if not self._retries.spend():
            self._metrics.rejected.labels("retry_budget").inc()
            return False
        self._metrics.retries.labels(reason).inc()
        return True


def _need(exchange: Exchange, route: Route) -> Need:
    name = route.version.engine_name if route.version else None
    return Need(route.pool, name, exchange.request_id, exchange.session)


def _counts(exchange: Exchange) -> bool:
    """Whether the lease that it asks for now counts as a use of its version: its first does, whatever comes of that."""
    is_first, exchange.counted = not exchange.counted, True
    return is_first


def _crowded(route: Route) -> EngineCrowded:
    message = f"{route.model} found no lasting room on the engines before the request's deadline"
    return EngineCrowded(message, retry_after_s=_RETRY_AFTER_S)


def _as_unavailable(refused: VersionNotServable) -> EngineUnavailable:
    """To a client it is an engine that cannot answer now, not a conflict of its own making."""
    message = refused.for_clients or refused.message
    return EngineUnavailable(message, code="version_not_servable", retry_after_s=_RETRY_AFTER_S)
