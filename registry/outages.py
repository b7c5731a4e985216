"""What an error of the database tells of the database, rather than of what it was asked."""

import re

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

_AWAY = (OperationalError, InterfaceError, ConnectionError, TimeoutError, PoolTimeoutError)
_AWAY_STATES = ("08", "25", "40", "53", "57")
"""Classes of SQLSTATE that tell of the server: no connection, read only as in a failover, a conflict that another try
may win, no resources left, and an operator's or a timeout's end."""
_LACKING_STATES = ("42703", "42P01")
"""PostgreSQL's undefined column and undefined table."""
_LACKING_WORDS = re.compile(r"no such (table|column)|has no column named")
"""SQLite's words for the same, which has no codes for them."""


def is_outage(error: BaseException) -> bool:
    """Whether to ask the database again later: it is away, hangs, fails over, or was not migrated yet."""
    if isinstance(error, _AWAY):  # asyncpg's own limit on a statement ends it with a plain TimeoutError
        return True
    if not isinstance(error, DBAPIError):
        return False
    return error.connection_invalidated or _state(error).startswith(_AWAY_STATES) or is_unmigrated(error)


def is_unmigrated(error: BaseException) -> bool:
    """Whether the schema lacks what this program asks for."""
    if not isinstance(error, DBAPIError):
        return False
    return _state(error) in _LACKING_STATES or _LACKING_WORDS.search(str(error.orig)) is not None


def problem_of(error: BaseException) -> str:
    """What people read of an outage, and what to do where they can."""
    if is_unmigrated(error):
        return "the database's schema is older than this program: run `ostler migrate`"
    return "the database does not answer"


def _state(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "")
