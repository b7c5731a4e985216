"""What a job would make of files, without a job."""

import sys
import tempfile
from pathlib import Path

from registry.tuning.orders import TuningOrder
from tuner.data.bad_rows import FileName, read_bad_rows
from tuner.data.finders import Finders, finders
from tuner.data.prepare import make_dataset
from tuner.data.report import BadLine, Problem, Report
from tuner.data.telling import Deaf, Listener
from tuner.errors import JobFailed
from tuner.workspace import PrepareTask, Workspace


def check_files(
    order: TuningOrder,
    training: Path,
    validation: Path | None,
    tokenizer: str,
    context: int,
    looking: Finders = finders,
) -> Report:
    """The report of a dataset that is made and thrown away, with every row that cannot be used.

    Its `problem` says why a job would fail.

    Args:
        order: how rows become a dataset; its file ids mean nothing here.
        training: the file to train on.
        validation: the file to validate with; None splits the training file.
        tokenizer: a folder or Hugging Face id, to measure rows with; empty measures nothing.
        context: tokens of the longest row; 0 takes rows of any length.
        looking: makes what finds personal data.
    """
    report = Report(order.method)
    with tempfile.TemporaryDirectory(prefix="ostler-data-") as folder:
        workspace = Workspace(Path(folder))
        task = PrepareTask(
            order=order,
            training=str(training),
            validation=None if validation is None else str(validation),
            tokenizer=tokenizer,
            context=context,
        )
        try:
            make_dataset(task, workspace, Listener(Deaf()), report, looking)
        except JobFailed as failed:
            report.problem = Problem(failed.code, failed.message, failed.param)
        _list_all(report, workspace)
    return report


def _list_all(report: Report, workspace: Workspace) -> None:
    """Have the report name every row that cannot be used, and not only the first ones."""
    lines: dict[FileName, list[BadLine]] = {"training": [], "validation": []}
    for row in read_bad_rows(workspace.bad_rows):
        lines[row.file].append(BadLine(row.line, sys.intern(row.reason)))  # a million may have the same one
    report.training.bad_lines = lines["training"]
    if report.validation is not None:
        report.validation.bad_lines = lines["validation"]
