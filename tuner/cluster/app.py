"""The dispatcher's composition root: `create_dispatcher` wires it, and the tuner's page that says how it does."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator

from litestar import Litestar

from monitors.watch.client import GatewayClient
from registry.database import check_schema
from registry.database import connect as connect_database
from registry.tuning.dispatch import Dispatch
from tuner.cluster.api import connect
from tuner.cluster.dispatcher import Dispatcher
from tuner.cluster.metrics import ClusterMetrics
from tuner.cluster.template import Limits, read_template
from tuner.code_version import CodeVersion
from tuner.metrics import TunerMetrics
from tuner.page import page, tell_of_an_end
from tuner.settings import TunerSettings
from tuner.sweeping import sweep
from tuner.wiring import shop_of, store_of


def create_dispatcher(settings: TunerSettings) -> Litestar:
    """Wire the dispatcher.

    Raises:
        ValueError: a setting is missing or wrong, or there is no cluster.
    """
    if not settings.base:
        raise ValueError("the tuner needs the name of the base model whose jobs it has done: set OSTLER_BASE")
    template = read_template(settings.tuner_job_template, Limits(settings.tuner_deadline_s, settings.tuner_ttl_s))
    cluster = connect(settings.tuner_namespace)
    database = connect_database(settings.database)
    store, found = store_of(settings), TunerMetrics()
    metrics = ClusterMetrics(found.registry)

    @contextlib.asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        await check_schema(database)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(database.dispose)
            gateway = GatewayClient(settings.url, settings.key, concurrency=1)  # which nobody asks here
            shop = shop_of(settings, database, store, await stack.enter_async_context(gateway), found, CodeVersion(""))
            tidy = functools.partial(sweep, shop)
            dispatcher = Dispatcher(settings, Dispatch(database), cluster, template, metrics, sweep=tidy)
            app.state["worker"] = dispatcher
            task = asyncio.create_task(dispatcher.run())
            task.add_done_callback(functools.partial(tell_of_an_end, app.state))
            try:
                yield
            finally:
                dispatcher.stop()
                await asyncio.gather(task, return_exceptions=True)

    return page(lifespan, found)
