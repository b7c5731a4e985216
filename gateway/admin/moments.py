"""Moments as parameters of the admin API: with a zone or in UTC, and in a range that every database can keep."""

from datetime import UTC, datetime
from typing import Annotated

from litestar.params import QueryParameter

from gateway.errors import InvalidRequest

Since = Annotated[datetime | None, QueryParameter(name="since", description="From this moment on; without a zone UTC.")]
Until = Annotated[datetime | None, QueryParameter(name="until", description="Before this moment; without a zone UTC.")]
_YEARS = range(2000, 9000)


def moment(given: datetime | None, name: str) -> datetime | None:
    """A parameter as a moment in UTC.

    Raises:
        InvalidRequest: it lies in no year that data can be of.
    """
    if given is None:
        return None
    if given.year not in _YEARS:
        raise InvalidRequest(f"{name} must lie after the year 2000, and before 9000", param=name)
    return given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)
