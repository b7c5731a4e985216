"""Whether a job has the disk that it needs, before it begins."""

import shutil

from tuner.errors import JobFailed
from tuner.shop import AtWork

_GIB = 1 << 30


def require_space(work: AtWork) -> None:
    """Hold the free space of the workspace's disk against the settings.

    Raises:
        JobFailed
    """
    settings = work.shop.settings
    settings.work.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.work).free
    if free < settings.tuner_min_free_gib * _GIB:
        message = (
            f"the tuner's disk has {free / _GIB:.1f} GiB free, less than the {settings.tuner_min_free_gib:g} GiB that "
            "a job needs; free some, and ask again"
        )
        raise JobFailed("disk_full", message)
