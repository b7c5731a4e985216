"""Why an adapter is as it is: what the loop saw, decided and did."""

from datetime import UTC, datetime

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.admin.monitoring import known_adapter
from gateway.directory import Directory
from gateway.refusals import refusals
from monitors.loop.why import Explanation, explain


class WhyController(Controller):
    """What the loop does with an adapter, explained."""

    path = "/adapters/{name:str}/why"
    tags = ("Loop",)

    @get("/", summary="Explain what the loop does with an adapter", responses=refusals(404))
    async def show(
        self,
        name: FromPath[str],
        directory: NamedDependency[Directory],
        database: NamedDependency[AsyncEngine],
    ) -> Explanation:
        """What was seen, the rule, what was done, what would change it, and who stopped it, as of now."""
        adapter = known_adapter(directory, name)
        async with database.connect() as connection:
            return await explain(connection, adapter, datetime.now(UTC))
