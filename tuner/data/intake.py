"""Takes in the rows of a file one by one: clean, measured and without those that were there already."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from monitors.teaching.checking import problem_of
from monitors.teaching.fingerprints import fingerprint
from monitors.teaching.rows import PreferenceRow, Row
from registry.tuning.orders import Method
from tuner.data.bad_rows import BadRows
from tuner.data.personal import Cleaner
from tuner.data.reading import read_rows
from tuner.data.report import DuplicatesReport, FileReport
from tuner.data.shelf import Shelf, Shelved
from tuner.data.telling import Listener

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOLD_EVERY = 50_000


@dataclass(frozen=True, slots=True)
class Measure:
    """Measures rows in tokens; a row with more than `limit` does not fit, unless that is 0."""

    tokenizer: "PreTrainedTokenizerBase"
    limit: int


@dataclass(slots=True)
class Intake:
    """Takes in rows.

    Args:
        shelf: where they are put down.
        cleaner: takes personal data out of them; None leaves it there.
        measure: None takes rows of any length.
        duplicates: where those are counted that were there already.
        bad_rows: where those are written down that cannot be used.
    """

    shelf: Shelf
    method: Method
    cleaner: Cleaner | None
    measure: Measure | None
    duplicates: DuplicatesReport
    bad_rows: BadRows
    _seen: set[bytes] = field(default_factory=set)

    def read(self, path: Path, report: FileReport, listener: Listener, *, is_validation: bool = False) -> list[Shelved]:
        """The rows of a file that can be used and are new.

        Raises:
            StoppedAt: the listener wants no more.
        """
        taken = []
        for line in read_rows(path, self.method):
            listener.check()
            report.rows += 1
            if report.rows % _TOLD_EVERY == 0:
                listener.tell(f"Read {report.rows:,} rows so far")
            kept = line.problem if line.row is None else self.take(line.row, is_validation=is_validation)
            if isinstance(kept, Shelved):
                taken.append(kept)
            elif kept is not None:
                report.leave_out(line.number, kept)
                self.bad_rows.add("validation" if is_validation else "training", line.number, kept)
        return taken

    def take(self, row: Row, *, is_validation: bool = False) -> Shelved | str | None:
        """Put down a row; or say why it cannot be used; or None, for it was there already."""
        clean = row if self.cleaner is None else self.cleaner.clean(row)
        if clean is not row and (problem := problem_of(clean)):
            return f"without its personal data, {problem}"
        size = self._measured(clean)
        if isinstance(size, str):
            return size
        found = fingerprint(clean)
        if found.row in self._seen:
            self.duplicates.exact += 1
            return None
        self._seen.add(found.row)
        if isinstance(clean, PreferenceRow) and fingerprint(_turned_round(clean)).row in self._seen:
            self.duplicates.conflicts += 1
        return self.shelf.put(clean, found, size, is_validation=is_validation)

    def _measured(self, row: Row) -> tuple[int, int] | str:
        """A row's tokens, and those of them that are learned; or why it cannot be used."""
        if self.measure is None:
            return 0, 0
        # Imported here, as rows can be checked without transformers.
        from tuner.data.template import NotReadable
        from tuner.data.tokens import measure

        try:
            size = measure(row, self.measure.tokenizer, self.measure.limit)
        except NotReadable as error:
            return str(error)
        return size.tokens, size.learned


def _turned_round(row: PreferenceRow) -> PreferenceRow:
    """The pair that prefers the other answer."""
    return msgspec.structs.replace(
        row, preferred_output=row.non_preferred_output, non_preferred_output=row.preferred_output
    )
