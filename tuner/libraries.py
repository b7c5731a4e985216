"""What the tuner's child processes import and the rest of Ostler does not need: the extra `tuner`."""

from importlib.util import find_spec

_NEEDED = ("torch", "transformers", "peft", "trl", "accelerate", "datasets")


def missing_libraries() -> list[str]:
    """Those that are not installed; nothing is imported to find out."""
    return [name for name in _NEEDED if find_spec(name) is None]
