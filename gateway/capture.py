"""What was said in a request that was drawn for capture: the bytes as they came, up to a bound."""

from collections.abc import Callable

from gateway.engines.placement import fraction
from monitors.record import Text


def is_drawn(request_id: str, share: float) -> bool:
    """Whether a request is among that share of all.

    One draw for all purposes, so that of two shares the smaller one's requests are among the larger one's.
    """
    return share > 0 and fraction("sample", request_id) < share


class Capture:
    """Keeps one request's body and its answer.

    Args:
        prompt: the request's body.
        limit: how many bytes both may have together; beyond it nothing is kept, for half an answer is none.
        on_overflow: called once if they have more.
    """

    def __init__(self, prompt: bytes, limit: int, on_overflow: Callable[[], None]) -> None:
        self.prompt = prompt
        self.limit = limit
        self.on_overflow = on_overflow
        self._left = limit - len(prompt)
        self._parts: list[bytes] = []
        self._keep(b"")

    def keep(self, part: bytes) -> None:
        """Keep the next part of the answer."""
        if self._left >= 0:
            self._left -= len(part)
            self._keep(part)

    def _keep(self, part: bytes) -> None:
        if self._left < 0:
            self._parts.clear()
            self.on_overflow()
        else:
            self._parts.append(part)

    def of_copy(self) -> "Capture":
        """The same for a copy of the request, which has an answer of its own."""
        return Capture(self.prompt, self.limit, self.on_overflow)

    @property
    def text(self) -> Text | None:
        """What was kept; None if it was too much."""
        return Text(self.prompt, b"".join(self._parts)) if self._left >= 0 else None
