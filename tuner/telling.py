"""How a child process speaks: on the pipe that was its standard output, which it has to itself."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Protocol

from tuner.messages import Failed, Message, encode


class Tell(Protocol):
    """Hands a message to whoever started the work."""

    def __call__(self, message: Message, /) -> None:
        """Hand it on."""
        ...


class Teller:
    """A child's end of the pipe.

    Whatever libraries print goes to standard error. Of several processes that train together only the first of each
    machine speaks, but each says why it failed. The process ends at once when its parent is gone, and `stop_asked`
    turns true on SIGTERM or on a line from `tuner.training.launch`.
    """

    def __init__(self) -> None:
        self.stop_asked = False
        self._speaks = os.environ.get("LOCAL_RANK", "0") == "0"
        self._pipe = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        signal.signal(signal.SIGTERM, self._ask_to_stop)
        threading.Thread(target=self._listen_to_parent, daemon=True).start()

    def __call__(self, message: Message) -> None:
        """Write one line, however many writes the pipe makes of it."""
        if self._speaks or isinstance(message, Failed):
            line = memoryview(encode(message))
            while line:
                line = line[self._pipe.write(line) :]

    def _ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stop_asked = True

    def _listen_to_parent(self) -> None:
        while os.read(sys.stdin.fileno(), 1 << 12):
            self.stop_asked = True
        os.killpg(os.getpgrp(), signal.SIGKILL)
