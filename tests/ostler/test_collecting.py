"""A process that serves looks for garbage seldom, and never at what it has started with."""

import subprocess
import sys

LOOK = """
import gc
before = gc.get_threshold()[0]
from ostler.collecting import collect_seldom
kept = [[] for _ in range(100_000)]
collect_seldom()
print(gc.get_freeze_count() > 100_000, gc.get_threshold()[0] >= 10 * before)
loop = []; loop.append(loop); del loop
print(gc.collect())
"""


def test_what_was_there_is_left_alone_and_new_garbage_is_still_found() -> None:
    """In a process of its own: it is for good."""
    ran = subprocess.run([sys.executable, "-c", LOOK], check=True, capture_output=True, text=True)
    first, found = ran.stdout.splitlines()
    assert first == "True True"
    assert int(found) >= 1
