"""Whether an error tells of a database that is away for a while, rather than of what it was asked."""

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

_AWAY = (OperationalError, InterfaceError, ConnectionError, TimeoutError, PoolTimeoutError)
_AWAY_STATES = ("08", "25", "40", "53", "57")
"""Classes of SQLSTATE that tell of the server: no connection, read only as in a failover, a conflict that another try
may win, no resources left, and an operator's or a timeout's end."""


def is_outage(error: BaseException) -> bool:
    """Whether to ask the database again later."""
    if isinstance(error, _AWAY):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = str(getattr(error.orig, "sqlstate", None) or "")
    return error.connection_invalidated or state.startswith(_AWAY_STATES)
