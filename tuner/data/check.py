"""What a job would make of files, without a job."""

import tempfile
from pathlib import Path

from registry.tuning.orders import TuningOrder
from tuner.data.finders import Finders, finders
from tuner.data.prepare import make_dataset
from tuner.data.report import Problem, Report
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
    """The report of a dataset that is made and thrown away; its `problem` says why a job would fail.

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
        task = PrepareTask(
            order=order,
            training=str(training),
            validation=None if validation is None else str(validation),
            tokenizer=tokenizer,
            context=context,
        )
        try:
            make_dataset(task, Workspace(Path(folder)), Listener(Deaf()), report, looking)
        except JobFailed as failed:
            report.problem = Problem(failed.code, failed.message, failed.param)
    return report
