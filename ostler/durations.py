"""Durations on the command line."""

import re

from ostler.client import CommandFailed

_DURATION = re.compile(r"(?P<count>[0-9]{1,9})(?P<unit>[smhd]?)")
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(duration: str) -> int:
    """A duration such as ``90s``, ``15m``, ``24h`` or ``7d``, or a number of seconds, in seconds.

    Raises:
        CommandFailed: it is none.
    """
    match = _DURATION.fullmatch(duration.strip())
    if match is None:
        raise CommandFailed(f"{duration!r} is not a duration; say seconds, or such as 90s, 15m, 24h or 7d", 2)
    return int(match["count"]) * _UNITS_S[match["unit"]]
