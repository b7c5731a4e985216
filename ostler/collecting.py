"""How often Python looks for garbage that refers to itself, in a process that serves.

Its default is for programs that make few objects. A server with a thousand streams makes so many that it would look
through all of them many times a second, and each look holds up every stream.
"""

import gc

_NEW_OBJECTS, _YOUNG_LOOKS, _MIDDLE_LOOKS = 20_000, 20, 50
"""A look at new objects after so many; at those that have survived one after so many of these, and so on."""


def collect_seldom() -> None:
    """Leave alone for good what is there now, which is what serves, and look at what comes ten times less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, _YOUNG_LOOKS, _MIDDLE_LOOKS)
