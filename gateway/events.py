"""The events of a stream, which may come cut anywhere: only whole ones are passed on."""

ENDS = (b"\n\n", b"\r\n\r\n")
"""What events end with: as vLLM writes lines, and as a server before it may."""
_LONGEST_END = 4


def event_around(whole: bytes, at: int) -> tuple[int, int]:
    """Where the event that holds the byte at a place of whole events begins, and where it ends."""
    start = max((found + len(end) for end in ENDS if (found := whole.rfind(end, 0, at)) >= 0), default=0)
    after = min((found + len(end) for end in ENDS if (found := whole.find(end, at)) >= 0), default=len(whole))
    return start, after


class WholeEvents:
    """Lets bytes through as they came up to the last event's end; what follows waits for its own.

    No client could have read it before, and if the stream breaks off, another event can still be told.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """What of the stream so far may go to the client now."""
        held = self._held
        if not held and chunk.endswith(ENDS):  # nearly always
            return chunk
        sought = max(0, len(held) - _LONGEST_END + 1)  # what came before holds no end, but maybe the begin of one
        held += chunk
        cut = max((at + len(end) for end in ENDS if (at := held.rfind(end, sought)) >= 0), default=0)
        whole = bytes(held[:cut])
        del held[:cut]
        return whole

    def rest(self) -> bytes:
        """What is left when the stream ends as it should."""
        rest = bytes(self._held)
        self._held.clear()
        return rest
