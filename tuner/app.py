"""The tuner's composition root: `create_tuner` wires the worker, beside the page that says how it does."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable

from litestar import Litestar
from litestar.datastructures import State

from monitors.watch.client import GatewayClient
from registry.database import check_schema, connect
from tuner.code_version import code_on_disk
from tuner.metrics import TunerMetrics
from tuner.page import page, tell_of_an_end
from tuner.settings import TunerSettings
from tuner.wiring import shop_of, store_of
from tuner.worker import Worker


def create_tuner(
    settings: TunerSettings, job_id: str | None = None, on_done: Callable[[], None] | None = None
) -> Litestar:
    """Wire the tuner.

    With `job_id` it does that job alone, leaves how it went in the app's state (`outcome`) and calls `on_done`.

    Raises:
        ValueError: a setting is missing or wrong.
    """
    if not settings.key:
        raise ValueError("the tuner needs an admin key for the gateway: set OSTLER_API_KEY")
    if not settings.base or not settings.base_model:
        raise ValueError("the tuner needs the base model that it trains adapters for: set OSTLER_BASE_MODEL")
    database = connect(settings.database)
    store = store_of(settings)
    found = TunerMetrics()
    code = code_on_disk()

    @contextlib.asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        await check_schema(database)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(database.dispose)
            client = GatewayClient(settings.url, settings.key, concurrency=settings.tuner_concurrency)
            gateway = await stack.enter_async_context(client)
            app.state["worker"] = worker = Worker(shop_of(settings, database, store, gateway, found, code))
            task = asyncio.create_task(_work(worker, job_id, app.state))
            task.add_done_callback(functools.partial(tell_of_an_end, app.state))
            if on_done is not None:
                task.add_done_callback(lambda _: on_done())
            try:
                yield
            finally:
                worker.stop()
                await asyncio.gather(task, return_exceptions=True)

    return page(lifespan, found)


async def _work(worker: Worker, job_id: str | None, state: State) -> None:
    if job_id is None:
        await worker.run()
    else:
        state["outcome"] = await worker.do(job_id)
