"""Has a teacher answer a file of prompts, into a file of rows to train on.

1. read what the file of rows has already; a last line that was cut off is dropped
2. ask for the others, several at once, as they stand in the file of prompts
3. append each answer as soon as it is there, so that whatever ends this loses nothing that was paid for
"""

import asyncio
import contextlib
import errno
import fcntl
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from monitors.teaching.prompts import PromptRow
from monitors.teaching.rows import SupervisedRow
from monitors.teaching.teacher import Answer, Teacher, TeacherFailed, TeacherStopped
from registry.wording import plain

SHOWN_PROBLEMS = 20
MOST_FAILURES_IN_A_ROW = 20
LONGEST_ROW_BYTES = 1 << 20
_NO_ROW = (msgspec.DecodeError, UnicodeError, RecursionError)


class InUse(Exception):
    """Another run writes into that file."""


@dataclass
class Tally:
    """How far it is.

    Attributes:
        prompts: lines of the file of prompts that have something.
        before: prompts that the file of rows had already, and repeated ones.
        labelled: answers that came now.
        failed: prompts without one.
        problems: why, by line, of the first of them.
        stopped: why it ended before the last prompt; empty if it did not.
    """

    prompts: int = 0
    before: int = 0
    labelled: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    problems: list[str] = field(default_factory=list)
    stopped: str = ""
    failures_in_a_row: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether every prompt has its answer."""
        return not self.failed and not self.stopped

    def fail(self, line: int, why: str) -> None:
        """Count a prompt without an answer."""
        self.failed += 1
        if len(self.problems) < SHOWN_PROBLEMS:
            self.problems.append(f"line {line}: {why}")


async def label_file(prompts: Path, rows: Path, teacher: Teacher, show: Callable[[Tally], None]) -> Tally:
    """Answer every prompt that has no row yet; `show` is called after each.

    Raises:
        OSError: a file cannot be opened.
        InUse
    """
    tally = Tally(prompts=_count_lines(prompts))
    with _held(rows) as written:
        todo = _todo(prompts, _known(rows, written), tally)
        workers = [_work(todo, written, teacher, tally, show) for _ in range(teacher.choice.concurrency)]
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker)
    tally.cost = teacher.budget.spent
    return tally


async def _work(
    todo: Iterator[tuple[int, PromptRow]],
    written: io.FileIO,
    teacher: Teacher,
    tally: Tally,
    show: Callable[[Tally], None],
) -> None:
    """Take prompts, one after another, until none is left or asking on is in vain."""
    try:
        for line, row in todo:
            try:
                answer = await teacher.answer(row.asked, **row.fields)
                _append(written, row.answered(answer))
                _take_answer(tally, answer)
            except TeacherFailed as failed:
                _take_failure(tally, line, str(failed))
            tally.cost = teacher.budget.spent
            show(tally)
            if tally.stopped:
                return
    except TeacherStopped as stopped:
        tally.stopped = tally.stopped or str(stopped)
    except OSError as error:
        tally.stopped = f"a file cannot be read or written: {error.strerror}"


def _take_answer(tally: Tally, answer: Answer) -> None:
    tally.labelled += 1
    tally.failures_in_a_row = 0
    tally.prompt_tokens += answer.prompt_tokens
    tally.completion_tokens += answer.completion_tokens


def _take_failure(tally: Tally, line: int, why: str) -> None:
    tally.fail(line, why)
    tally.failures_in_a_row += 1
    if tally.failures_in_a_row >= MOST_FAILURES_IN_A_ROW:
        tally.stopped = f"{MOST_FAILURES_IN_A_ROW} prompts in a row had no answer, the last one because {why}"


def _todo(prompts: Path, known: set[bytes], tally: Tally) -> Iterator[tuple[int, PromptRow]]:
    """The prompts that have no row yet, each once, with their lines."""
    with prompts.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row = _prompt(line)
            if isinstance(row, str):
                tally.fail(number, row)
            elif row.key in known:
                tally.before += 1
            else:
                known.add(row.key)
                yield number, row


def _prompt(line: bytes) -> PromptRow | str:
    """A line's prompt, or what is wrong with it, without what stands in it."""
    if len(line) > LONGEST_ROW_BYTES:
        return f"a row may have {LONGEST_ROW_BYTES} bytes at most"
    try:
        row = msgspec.json.decode(line, type=PromptRow)
    except msgspec.ValidationError as error:
        return plain(error, PromptRow)
    except _NO_ROW:
        return 'it is not JSON; each line must be {"messages": [...]}'
    return row.problem() or row


def _known(rows: Path, written: io.FileIO) -> set[bytes]:
    """The prompts that have a row; what follows the last line break was cut off, and is dropped."""
    known: set[bytes] = set()
    whole = 0
    with rows.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            with contextlib.suppress(*_NO_ROW):
                known.add(msgspec.json.decode(line, type=PromptRow).key)
    written.truncate(whole)
    return known


def _append(written: io.FileIO, row: SupervisedRow) -> None:
    """Add a line, all of it or nothing."""
    line = msgspec.json.encode(row) + b"\n"
    end = written.seek(0, os.SEEK_END)
    if written.write(line) != len(line):
        written.truncate(end)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def _held(rows: Path) -> Iterator[io.FileIO]:
    """The file, open for this run alone; made if it is new."""
    with io.FileIO(rows, "ab") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse from None
        yield opened


def _count_lines(file: Path) -> int:
    with file.open("rb") as lines:
        return sum(1 for line in lines if line.strip())
