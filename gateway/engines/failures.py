"""How asking an engine fails.

EngineDown           the engine could not be reached, or broke off
└── EngineLate       no answer came in time
EngineRefused        the engine answered with an error
└── EngineStopping   it takes nothing new any more
"""


class EngineDown(Exception):
    """The engine could not be reached, or broke off before it answered.

    Attributes:
        sent: whether the request may have reached it.
    """

    def __init__(self, *, sent: bool) -> None:
        super().__init__("the engine did not answer")
        self.sent = sent


class EngineLate(EngineDown):
    """No answer came in time; the engine may do all the same what it was asked."""

    def __init__(self) -> None:
        super().__init__(sent=True)


class EngineRefused(Exception):
    """The engine answered with an error; `reason` is safe to show.

    Attributes:
        for_clients: what to say to those who can change nothing in how engines are set up.
    """

    def __init__(self, status: int, reason: str, for_clients: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.for_clients = for_clients or reason


class EngineStopping(EngineRefused):
    """The engine takes nothing new any more, and what was asked never ran; what it has begun it still ends."""

    def __init__(self, status: int) -> None:
        super().__init__(status, "the engine is stopping")
