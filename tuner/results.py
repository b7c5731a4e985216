"""What a job leaves as files of OpenAI's kind: a line of CSV for each step, and the rows that it could not use.

A job whose tuner was lost between a file and the note of it comes to the same content again, and to the same file.
"""

import csv
import io

from registry.errors import StoreFailure
from registry.tuning.files import NewFile
from tuner.errors import JobFailed
from tuner.shop import AtWork

_PURPOSE = "fine-tune-results"
_COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_mean_token_accuracy": "train_accuracy",
    "full_valid_loss": "valid_loss",
    "full_valid_mean_token_accuracy": "valid_mean_token_accuracy",
}


async def add_result_file(work: AtWork) -> None:
    """Make the file from the job's events, unless it has one.

    A step that a resumed job came to again counts as it was last.

    Raises:
        JobLost, StoreFailure, Interrupted
    """
    if work.job.result_file is not None:  # its tuner was lost right before the job's end
        return
    steps: dict[int, dict[str, object]] = {}
    for data in await work.shop.events.metrics(work.job.id):
        row = steps.setdefault(int(data["step"]), {})
        row |= {column: data[name] for name, column in _COLUMNS.items() if data.get(name) is not None}
    content = _csv([steps[step] for step in sorted(steps)])
    new = NewFile(f"{work.job.id}-step-metrics.csv", _PURPOSE)
    file = await work.shop.files.keep(new, content, key_id=work.job.key_id, once=True)
    await work.note(result_file=file.id)


async def keep_bad_rows(work: AtWork) -> str | None:
    """Keep the rows that cannot be used as a file, each with its line and the reason; its id, or None without any.

    Raises:
        JobLost, StoreFailure, Interrupted
    """
    content = work.workspace.bad_rows
    if not content.exists() or not content.stat().st_size:
        return None
    new = NewFile(f"{work.job.id}-bad-rows.jsonl", _PURPOSE)
    file = await work.shop.files.keep(new, content, key_id=work.job.key_id, once=True)
    await work.tell(f"Every row that cannot be used is in the file {file.id}, with its line and the reason", "warn")
    return file.id


async def with_bad_rows(work: AtWork, failed: JobFailed) -> JobFailed:
    """How making the dataset failed, with the file of the rows that cannot be used; that is the job's result then.

    Raises:
        JobLost, Interrupted
    """
    try:
        file_id = await keep_bad_rows(work)
    except StoreFailure:  # what the job's client has to know is why it failed
        return failed
    if file_id is None:
        return failed
    await work.note(result_file=file_id)
    return JobFailed(failed.code, f"{failed.message}; the file {file_id} names every bad row", failed.param)


def _csv(rows: list[dict[str, object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(_COLUMNS.values()), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
