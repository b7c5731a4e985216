"""What was said of answers, for admins."""

from typing import Annotated

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.admin.fields import NO_NUL
from gateway.admin.moments import Since, moment
from gateway.feedback import FeedbackShape, feedback_shape
from gateway.refusals import refusals
from gateway.shapes import Page
from monitors.log.feedback import list_feedback


class FeedbackController(Controller):
    """Feedback."""

    path = "/feedback"
    tags = ("Feedback",)

    @get("/", summary="List feedback", responses=refusals())
    async def list_all(
        self,
        database: NamedDependency[AsyncEngine],
        adapter: Annotated[str | None, QueryParameter(name="adapter", max_length=63, pattern=NO_NUL)] = None,
        version: Annotated[int | None, QueryParameter(name="version", ge=1, le=2**31 - 1)] = None,
        since: Since = None,
        limit: Annotated[int, QueryParameter(name="limit", ge=1, le=1000)] = 100,
        before: Annotated[str | None, QueryParameter(name="before", max_length=32, pattern=NO_NUL)] = None,
    ) -> Page[FeedbackShape]:
        """What was said of answers, newest first; `before` goes on from a feedback's id."""
        found = await list_feedback(
            database,
            adapter=adapter,
            version=version,
            since=moment(since, "since"),
            before=before,
            limit=limit + 1,
        )
        return Page([feedback_shape(each) for each in found[:limit]], has_more=len(found) > limit)
