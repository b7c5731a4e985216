"""What became of the rows of a job's files: for the job's events, the dataset and `ostler data check`."""

from typing import Any

import msgspec

from registry.tuning.orders import Method

MOST_LINES = 20
MOST_LABELS = 50
NO_LABEL = ""


class BadLine(msgspec.Struct, frozen=True):
    """A line that cannot be used; the reason repeats nothing of it."""

    line: int
    reason: str


class FileReport(msgspec.Struct):
    """An uploaded file: how many rows it has, how many of them cannot be used, and the first of these.

    All of them are in the file of `tuner.data.bad_rows`.
    """

    rows: int = 0
    bad: int = 0
    bad_lines: list[BadLine] = []

    def leave_out(self, line: int, reason: str) -> None:
        """Count a row that cannot be used."""
        self.bad += 1
        if len(self.bad_lines) < MOST_LINES:
            self.bad_lines.append(BadLine(line, reason))

    @property
    def reasons(self) -> list[str]:
        """Why the first rows cannot be used, each reason with its lines; and how many more there are."""
        lines: dict[str, list[str]] = {}
        for each in self.bad_lines[:MOST_LINES]:
            lines.setdefault(each.reason, []).append(str(each.line))
        told = [f"{'lines' if len(at) > 1 else 'line'} {', '.join(at)}: {reason}" for reason, at in lines.items()]
        return [*told, f"and {self.more:,} more"] if self.more else told

    @property
    def more(self) -> int:
        """How many rows `reasons` does not name."""
        return max(0, self.bad - MOST_LINES)

    @property
    def told(self) -> str:
        """The reasons in one line."""
        return "; ".join(self.reasons)


class DuplicatesReport(msgspec.Struct):
    """Rows that were dropped because an earlier one says the same.

    Attributes:
        exact: with the same prompt and answer, but for case and spaces.
        near: with a prompt and an answer alike; None where they were not looked for.
        conflicts: prompts that have several answers (dpo: pairs that prefer what another pair does not). They stay.
    """

    exact: int = 0
    near: int | None = None
    conflicts: int = 0


class PersonalReport(msgspec.Struct):
    """Personal data that was replaced: by whom it was found, how much of each kind, and in how many rows."""

    finders: list[str]
    found: dict[str, int] = {}
    rows: int = 0


class TokensReport(msgspec.Struct):
    """How long the rows are that are left, in tokens.

    Attributes:
        limit: the longest that a row may be; 0 where nobody knows.
        total, learned: of all rows together, and those of them that are learned.
        median, longest: of one row.
    """

    limit: int
    total: int = 0
    learned: int = 0
    median: int = 0
    longest: int = 0


class ReplayReport(msgspec.Struct):
    """Rows of an earlier version's training data that are mixed in.

    Attributes:
        dataset: the digest of the dataset that they come from.
        rows: how many.
        wanted: how many there should be, as far as the earlier dataset has them.
    """

    dataset: str
    rows: int = 0
    wanted: int = 0


class Problem(msgspec.Struct, frozen=True):
    """Why a job would fail."""

    code: str
    message: str
    param: str | None = None


class Report(msgspec.Struct):
    """What became of the rows.

    Attributes:
        personal: None where personal data is kept as it is.
        tokens: None where no tokenizer was given.
        counts: rows by split, without what was dropped.
        sources: rows by where their answers came from.
        labels: for each label its rows by split, for the `MOST_LABELS` with the most rows.
        warnings: what is worth a look.
        problem: why a job would fail; None if it would not.
    """

    method: Method
    training: FileReport = msgspec.field(default_factory=FileReport)
    validation: FileReport | None = None
    duplicates: DuplicatesReport = msgspec.field(default_factory=DuplicatesReport)
    personal: PersonalReport | None = None
    tokens: TokensReport | None = None
    replay: ReplayReport | None = None
    counts: dict[str, int] = {}
    sources: dict[str, int] = {}
    labels: dict[str, dict[str, int]] = {}
    warnings: list[str] = []
    problem: Problem | None = None

    def to_builtins(self) -> dict[str, Any]:
        """As a dataset keeps it."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built

    def to_json(self) -> str:
        """For programs; straight from here, as it may have a million lines."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()
