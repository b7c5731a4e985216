"""Shadow requests: copies of a sampled share of requests, sent to another version or the base.

They are sent after the client has its answer, and come last everywhere: few at once, at low priority in the engine, and
the first to go under pressure.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from gateway.answer import read_whole
from gateway.body import Body
from gateway.capture import is_drawn
from gateway.engines.failures import EngineDown
from gateway.engines.fleet import Fleet
from gateway.engines.picking import Need
from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.pricing import Prices
from gateway.priority import LowPriority
from gateway.routing import Route
from monitors.metrics import Metrics
from monitors.record import RequestHook
from registry.catalog import Catalog

log = logging.getLogger(__name__)

_ENDED_BEFORE_IT_BEGAN = 499
_CANCELLED = "shadow_cancelled"


class Shadower:
    """Sends the copies.

    Args:
        catalog: gives the newest catalog.
        is_busy: whether requests wait anywhere.
        places: how many copies may run at once.
        timeout_s: the longest that one may take.
        low_priority: what they ask the engines for.
    """

    def __init__(
        self,
        fleet: Fleet,
        metrics: Metrics,
        hooks: Sequence[RequestHook],
        *,
        catalog: Callable[[], Catalog],
        is_busy: Callable[[], bool],
        places: int,
        timeout_s: float,
        prices: Prices,
        low_priority: LowPriority,
    ) -> None:
        self._fleet = fleet
        self._metrics = metrics
        self._hooks = hooks
        self._catalog = catalog
        self._is_busy = is_busy
        self._places = places
        self._timeout_s = timeout_s
        self._prices = prices
        self._running: set[asyncio.Task[None]] = set()
        self._low_priority = low_priority

    def offer(self, exchange: Exchange, body: Body) -> None:
        """Copy a request that was answered, if it is drawn, there is room and the copy's version does not fail."""
        route = exchange.route
        if route is None or route.shadow is None or not exchange.is_well_answered:
            return
        if not is_drawn(exchange.request_id, route.shadow.share):
            return
        target = self._target(route)
        if target is None or target.model == route.model:
            return
        if len(self._running) >= self._places:
            self._drop("full")
        elif self._is_busy():
            self._drop("pressure")
        elif target.version is None or self._fleet.breakers.allows(target.model):
            task = asyncio.create_task(self._run(exchange, target, body.copy_for(target.model)))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def give_way(self) -> None:
        """Cancel all that run: a client's request has to wait."""
        for task in self._running:
            if not task.cancelling():
                task.cancel()
                self._drop("cancelled")

    async def close(self) -> None:
        """Cancel all that run, and wait for it."""
        self.give_way()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _target(self, route: Route) -> Route | None:
        assert route.shadow is not None
        assert route.adapter is not None
        if route.shadow.version is None:
            return Route(route.pool, route.pool, "shadow", route.adapter, None)
        adapter = self._catalog().adapters.get(route.adapter)
        version = adapter.versions.get(route.shadow.version) if adapter else None
        return None if version is None else Route(version.engine_name, route.pool, "shadow", route.adapter, version)

    def _drop(self, reason: str) -> None:
        self._metrics.shadow_dropped.labels(reason).inc()

    async def _run(self, original: Exchange, route: Route, body: bytes) -> None:
        copy = Exchange(
            path=original.path,
            request_id=original.request_id,
            deadline=time.monotonic() + self._timeout_s,
            hooks=self._hooks,
            prices=self._prices,
            route=route,
            session=original.session,
            named_session=original.named_session,
            end_user=original.end_user,
            capture=original.capture.of_copy() if original.capture else None,
            status=_ENDED_BEFORE_IT_BEGAN,
            error=_CANCELLED,
        )
        try:
            await self._ask(copy, route, body)
        except (GatewayError, EngineDown) as error:
            copy.status, copy.error = 503, getattr(error, "code", None) or "engine_unavailable"
        except Exception:
            copy.status, copy.error = 500, "internal_error"
            log.exception("a shadow of request %s failed inside the gateway", original.request_id)
        finally:
            self._metrics.shadow.labels(route.adapter or "", _outcome(copy.error)).inc()
            copy.finish()

    async def _ask(self, copy: Exchange, route: Route, body: bytes) -> None:
        name = route.version.engine_name if route.version else None
        need = Need(route.pool, name, copy.request_id, copy.session)
        with await self._fleet.lease(route.version, need, copy.deadline, counts=False) as replica:
            copy.replica, copy.sends = replica.id, 1
            headers = {"content-type": "application/json", "accept-encoding": "identity", **self._low_priority.headers}
            with await replica.engine.forward(copy.path, body, headers, max(0.001, copy.left_s)) as answer:
                await answer.begin()
                content = await answer.read()
            copy.status, copy.first_byte = answer.status, time.monotonic()
            if answer.status == 200:
                if name is not None:
                    self._fleet.breakers.succeeded(name)
                copy.answer, copy.error = read_whole(copy.path, content), None
                if copy.capture is not None:
                    copy.capture.keep(content)
                return
            copy.error = "engine_error"
            if answer.status == 400:
                self._low_priority.was_refused(headers, content)


def _outcome(error: str | None) -> str:
    return {None: "ok", _CANCELLED: "cancelled"}.get(error, "error")
