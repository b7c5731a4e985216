"""How a child process speaks."""

from tuner.messages import Told, decode
from tuner.telling import Teller


class _Pipe:
    """Takes a few bytes at a time, as a pipe may."""

    def __init__(self) -> None:
        self.taken = b""

    def write(self, content: memoryview) -> int:
        """Take some of it."""
        self.taken += content[:7]
        return len(content[:7])


def test_a_message_is_written_whole() -> None:
    """However little the pipe takes at once."""
    teller, pipe = Teller.__new__(Teller), _Pipe()
    teller._speaks, teller._pipe = True, pipe  # type: ignore[assignment]
    for said in ("a" * 100, "b"):
        teller(Told(said))
    assert [decode(line) for line in pipe.taken.splitlines()] == [Told("a" * 100), Told("b")]
