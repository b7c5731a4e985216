"""Runs `ostler` so that it can be looked into: `python -m benchmarks.speed.watched FILE gateway --port 8080 ...`.

A profiler of the same user may attach to it, also where Linux lets only parents do that. And FILE always holds the
processor time that Python's garbage collector took so far, as one double, seconds: a profile cannot tell it, because
the collector runs in the middle of whatever asked for memory.
"""

import ctypes
import gc
import mmap
import runpy
import struct
import sys
import time
from pathlib import Path

_DOUBLE = struct.Struct("d")
_PR_SET_PTRACER, _ANY = 0x59616D61, ctypes.c_ulong(-1)


class Collections:
    """Hears of each garbage collection, and adds its time to what the file says."""

    def __init__(self, file: Path) -> None:
        file.write_bytes(bytes(_DOUBLE.size))
        with file.open("r+b") as opened:
            self._total = mmap.mmap(opened.fileno(), _DOUBLE.size)
        self._seconds = 0.0
        self._began = 0.0

    def __call__(self, phase: str, _: object) -> None:
        """One of `gc.callbacks`."""
        if phase == "start":
            self._began = time.thread_time()
            return
        self._seconds += time.thread_time() - self._began
        _DOUBLE.pack_into(self._total, 0, self._seconds)


def collected_s(file: Path) -> float:
    """What such a file says."""
    (seconds,) = _DOUBLE.unpack(file.read_bytes())
    return float(seconds)


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)
    gc.callbacks.append(Collections(Path(sys.argv.pop(1))))
    runpy.run_module("ostler", run_name="__main__", alter_sys=True)
