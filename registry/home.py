"""Where state lives when nothing else is said: the XDG folders."""

import os
from pathlib import Path


def _xdg(variable: str, default: str) -> Path:
    value = os.environ.get(variable, "")
    # The XDG specification has relative paths ignored.
    return (Path(value) if Path(value).is_absolute() else Path.home() / default) / "ostler"


def data_home() -> Path:
    """What must be kept: database, artifacts, the first key."""
    return _xdg("XDG_DATA_HOME", ".local/share")


def cache_home() -> Path:
    """What can be made again."""
    return _xdg("XDG_CACHE_HOME", ".cache")
