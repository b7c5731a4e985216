"""The demo: a tiny base model, one adapter in two versions, and the tickets they are about.

Importing this package, `demo.tickets`, `demo.skills` or `demo.evaluate` never imports torch or transformers, so
that processes which must stay free of them can use it.
"""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ADAPTERS", "BASE_DIR", "BASE_NAME", "EXAMPLE_MESSAGE", "Adapter"]

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Adapter:
    """One shipped version of one adapter."""

    name: str
    version: int
    folder: Path
    note: str


BASE_NAME = "ostler-tiny"
BASE_DIR = _HERE / "base"

ADAPTERS = (
    Adapter("support", 1, _HERE / "adapters" / "support" / "1", "trained on 300 labelled tickets"),
    Adapter("support", 2, _HERE / "adapters" / "support" / "2", "trained on 1,500 labelled tickets"),
)

# The base and both versions answer this differently, and only version 2 is right (see README.md).
EXAMPLE_MESSAGE = (
    "Hi, my doorbell arrived with a crack and I want a replacement. Guests arrive tonight, so please hurry."
)
