"""How an error is logged: by its kind and its place. Its message may quote an answer, or the values of a statement."""

import traceback
from pathlib import Path


def place_of(error: BaseException) -> str:
    """Its type and the calls that led to it, the innermost last, such as ``ValueError in run (job.py:12)``."""
    calls = (
        f"{call.name} ({Path(call.filename).name}:{call.lineno})" for call in traceback.extract_tb(error.__traceback__)
    )
    return f"{type(error).__name__} in {' > '.join(calls)}"
