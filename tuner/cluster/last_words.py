"""What clients may read of the last lines of a pod that ended badly.

Such lines may hold anything: rows of the dataset, paths, addresses, keys. So nothing of them is passed on. Clients are
told which of the sayings below the tuner has logged or given up with, and which of Python's exceptions ended it. Where
it has said more, "(…)" stands for that; the dispatcher's log has it.
"""

import builtins
import re

SAYINGS = (
    "a setting is wrong",
    "cannot listen on",
    "no job can be claimed",
    "ostler.toml cannot be read",
    "ostler.toml: there is no setting",
    "several machines that train together share no GPU with an engine",
    "the artifact store in OSTLER_ARTIFACTS_URL cannot be used",
    "the database URL cannot be read",
    "the database URL names",
    "the database cannot be reached",
    "the database's folder cannot be made",
    "the tuner needs an admin key for the gateway",
    "the tuner needs the base model that it trains adapters for",
    "the tuner needs",
    "the tuner's worker has ended",
    "there is no folder",
)
"""How messages of the tuner begin that say why a job is not begun with; of two that fit, the first."""
_MOST = 3
_RECORD = re.compile(
    r"[\d-]{10} [\d:,]{12} (?:WARNING|ERROR|CRITICAL) +(?:\[\d+\] )?(?:tuner|registry|ostler)(?:\.\w+)*: (?P<said>.+)"
)
_GIVEN_UP = re.compile(r"error: (?P<said>.+)")
_EXCEPTION = re.compile(r"(?:\w+\.)*(?P<name>\w+)(?::.*)?")
_EXCEPTIONS = {
    "OutOfMemoryError",  # torch's
    *(name for name, each in vars(builtins).items() if isinstance(each, type) and issubclass(each, Exception)),
}


def last_words(tail: str) -> list[str]:
    """The last of such words, the newest last; none where no line has any."""
    lines = [line.rstrip() for line in tail.splitlines() if line.strip()]
    found = [_RECORD.fullmatch(line) for line in lines] + [_GIVEN_UP.fullmatch(line) for line in lines[-1:]]
    words = [_saying(each["said"]) for each in found if each is not None]
    words += [_exception(line) for line in lines[-1:]]
    return list(dict.fromkeys(each for each in words if each is not None))[-_MOST:]


def _saying(said: str) -> str | None:
    saying = next((each for each in SAYINGS if said.startswith(each)), None)
    return saying if saying in (None, said) else f"{saying} (…)"


def _exception(line: str) -> str | None:
    found = _EXCEPTION.fullmatch(line)
    return found["name"] if found is not None and found["name"] in _EXCEPTIONS else None
