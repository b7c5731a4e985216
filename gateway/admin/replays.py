"""Dry runs: what a policy would have done in the last days."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.admin.monitoring import known_adapter
from gateway.admin.policies import PolicyPatch, patched, require_sound_job
from gateway.directory import Directory
from gateway.json_body import StrictRequest
from gateway.refusals import refusals
from monitors.judging.choices import check_names
from monitors.loop.replayed import Replay
from registry.catalog import Adapter
from registry.policies import Policy

_Days = Annotated[int, msgspec.Meta(ge=1, le=90)]


class PolicyCheck(PolicyPatch, forbid_unknown_fields=True):
    """A policy to try: that of the adapter with these changes, on what was recorded in the last `days`."""

    days: _Days = 7


class ReplayController(Controller):
    """Dry runs of policies."""

    path = "/adapters/{name:str}/policy/check"
    tags = ("Loop",)
    request_class = StrictRequest

    @post("/", summary="Try a policy on the last days", status_code=200, responses=refusals(404, 413, 422))
    async def check(
        self,
        name: FromPath[str],
        directory: NamedDependency[Directory],
        database: NamedDependency[AsyncEngine],
        data: JSONBody[PolicyCheck | None] = None,
    ) -> Replay:
        """What the adapter's policy, with these changes, would have done; nothing is changed, and nothing stored."""
        from monitors.loop.replay import replay  # with numpy, which a gateway needs for nothing else

        order = data or PolicyCheck()
        adapter = known_adapter(directory, name)
        require_sound_job(order)
        policy = _sound(adapter, patched(adapter.policy, order))
        until = datetime.now(UTC)
        async with database.connect() as connection:
            return await replay(connection, adapter, policy, until - timedelta(days=order.days), until)


def _sound(adapter: Adapter, policy: Policy) -> Policy:
    """The policy, if it could be stored.

    Raises:
        InvalidValue: it could not.
    """
    monitoring = msgspec.structs.replace(adapter.monitoring, quality=policy.quality)
    monitoring.check()
    policy.check()
    check_names(monitoring)
    return policy
