"""The job's results as a file of OpenAI's kind: a line of CSV for each step."""

import csv
import io

from registry.tuning.files import NewFile
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
    file = await work.shop.files.keep(new, content, key_id=work.job.key_id)
    await work.note(result_file=file.id)


def _csv(rows: list[dict[str, object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(_COLUMNS.values()), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
