"""From uploaded files to a frozen dataset, step by step. The same files and order give the same bytes."""

import shutil
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monitors.teaching.rows import can_be_scored
from tuner.data.bad_rows import BadRows
from tuner.data.dataset import FORMAT, count_sources, freeze, write_about
from tuner.data.finders import Finders, PatternFinder, finders
from tuner.data.intake import Intake, Measure
from tuner.data.personal import Cleaner
from tuner.data.replay import Earlier
from tuner.data.report import (
    MOST_LABELS,
    NO_LABEL,
    FileReport,
    PersonalReport,
    ReplayReport,
    Report,
    TokensReport,
)
from tuner.data.shelf import Shelf, Shelved
from tuner.data.splits import RULE, SPLITS, Shares, Split, split_prompts
from tuner.data.telling import Ear, Listener
from tuner.errors import JobFailed
from tuner.workspace import PrepareTask, Workspace

FEWEST_PROMPTS = 10
_SMALL_HOLDOUT = 30
_REPLAY_SHARE = 0.2
_EXAMPLE = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
Rows = list[Shelved]


def prepare(task: PrepareTask, workspace: Workspace, ear: Ear, looking: Finders = finders) -> dict[str, Any]:
    """Make the dataset of a job in the workspace; what its about.json says.

    `looking` makes what finds personal data.

    Raises:
        JobFailed: the files cannot be used; the message names the lines.
        StoppedAt: it was asked to stop; nothing is kept.
    """
    return make_dataset(task, workspace, Listener(ear), Report(task.order.method), looking)


def make_dataset(
    task: PrepareTask, workspace: Workspace, listener: Listener, report: Report, looking: Finders
) -> dict[str, Any]:
    """As `prepare`; `report` has what is known so far also when it fails."""
    shutil.rmtree(workspace.dataset, ignore_errors=True)
    workspace.make()
    rows_file = workspace.folder / "rows.jsonl"
    with Shelf(rows_file, task.order.method) as shelf, BadRows(workspace.bad_rows) as bad_rows:
        # 1. Read the rows, without personal data, those that cannot be used, and those that were there already.
        intake = _intake(task, shelf, bad_rows, report, listener, looking)
        rows = _read_files(task, intake, report, listener)
        # 2. Drop those that say nearly what an earlier one says, and look for prompts with several answers.
        rows = _without_near_duplicates(rows, shelf, task, report)
        _tell_of_duplicates(rows, report, listener)
        # 3. Decide by each prompt's hash what is trained on, what validates and what is held out.
        earlier = {digest: Earlier(Path(folder)) for digest, folder in task.ancestors.items()}
        held_out = {prompt for each in earlier.values() for prompt in each.held_out()}
        splits = _split(rows, task, earlier.values(), held_out)
        _require_splits(splits, task)
        scorable = _require_scorable(splits["holdout"], shelf)
        # 4. Mix in some of what an earlier version was trained on.
        if task.replayed is not None:
            splits["train"] += _replayed(task, earlier[task.replayed], intake, splits, report, listener)
        elif task.order.data.replay_share:
            _warn("Nothing is replayed: of no version before is it known what it was trained on", report, listener)
        # 5. Freeze it.
        kept_out = held_out | {row.fingerprint.prompt for split in ("validation", "holdout") for row in splits[split]}
        freeze(workspace.dataset, shelf, splits, kept_out)
    _tell_of_splits(splits, scorable, report, listener)
    about = _about(task, report)
    write_about(workspace.dataset, about)
    return about


def _intake(
    task: PrepareTask, shelf: Shelf, bad_rows: BadRows, report: Report, listener: Listener, looking: Finders
) -> Intake:
    """What takes in rows, as the order wants it."""
    cleaner, measure = None, None
    if task.order.data.personal_data == "replace":
        cleaner = Cleaner(looking())
        if cleaner.names == [PatternFinder.name]:
            _warn(
                "Presidio is not installed (the extra `pii`), so personal data was looked for by the gateway's own "
                "patterns alone",
                report,
                listener,
            )
    if task.tokenizer:
        # Imported here, as rows can be checked without transformers.
        from tuner.data.tokens import load_tokenizer

        limit = min((each for each in (task.order.data.longest, task.context) if each), default=0)
        measure = Measure(load_tokenizer(task.tokenizer), limit)
        report.tokens = TokensReport(limit)
    return Intake(shelf, task.order.method, cleaner, measure, report.duplicates, bad_rows)


def _read_files(task: PrepareTask, intake: Intake, report: Report, listener: Listener) -> Rows:
    """The rows of the training file, then those of the validation file."""
    rows = intake.read(Path(task.training), report.training, listener)
    _hold_to_share(report.training, rows, "training", task, listener)
    if task.validation is not None:
        report.validation = FileReport()
        validating = intake.read(Path(task.validation), report.validation, listener, is_validation=True)
        _hold_to_share(report.validation, validating, "validation", task, listener)
        rows += validating
    _report_personal(intake, report, listener)
    return rows


def _hold_to_share(file: FileReport, rows: Rows, name: str, task: PrepareTask, listener: Listener) -> None:
    """Go on without the rows that cannot be used, if they are few."""
    listener.tell(f"Read the {name} file: {file.rows:,} rows, {file.bad:,} of which cannot be used")
    if problem := _unusable(file, rows, name, task.order.data.bad_rows_share):
        raise JobFailed(f"invalid_{name}_file", problem, f"{name}_file")
    if file.bad:
        listener.tell(f"{file.bad} of {file.rows} rows of the {name} file are left out: {file.told}", "warn")


def _unusable(file: FileReport, rows: Rows, name: str, share: float) -> str | None:
    if not file.rows:
        return f"the {name} file has no rows; each of its lines must be a row such as {_EXAMPLE}"
    if file.bad > share * file.rows:
        allowed = f"more than the {share:.1%} that `bad_rows_share` lets be left out"
        return f"{file.bad} of {file.rows} rows of the {name} file cannot be used, {allowed}: {file.told}"
    if file.bad == file.rows:
        return f"none of the {file.rows} rows of the {name} file can be used: {file.told}"
    if not rows and name == "validation":
        return "all rows of the validation file are in the training file, too; give it rows of its own"
    return None


def _report_personal(intake: Intake, report: Report, listener: Listener) -> None:
    cleaner = intake.cleaner
    if cleaner is None:
        return
    report.personal = PersonalReport(cleaner.names, dict(sorted(cleaner.found.items())), cleaner.rows)
    if cleaner.found:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(cleaner.found.items()))
        listener.tell(f"Personal data was replaced in {cleaner.rows:,} rows: {kinds}")


def _without_near_duplicates(rows: Rows, shelf: Shelf, task: PrepareTask, report: Report) -> Rows:
    threshold = task.order.data.near_duplicates
    if threshold is None:
        return rows
    # Imported here, as only this needs the library.
    from tuner.data.duplicates import near_duplicates

    found = set(near_duplicates(len(rows), lambda number: shelf.row(rows[number]), threshold))
    report.duplicates.near = len(found)
    return [row for number, row in enumerate(rows) if number not in found]


def _tell_of_duplicates(rows: Rows, report: Report, listener: Listener) -> None:
    duplicates = report.duplicates
    if report.method == "supervised":
        answers = Counter(row.fingerprint.prompt for row in rows)
        duplicates.conflicts = sum(count > 1 for count in answers.values())
    if dropped := duplicates.exact + (duplicates.near or 0):
        listener.tell(f"Dropped {dropped:,} duplicates, {duplicates.near or 0:,} of which are near ones")
    if duplicates.conflicts:
        what = "prompts have several answers" if report.method == "supervised" else "pairs contradict another pair"
        _warn(f"{duplicates.conflicts:,} {what}; all of them are kept", report, listener)


def _split(rows: Rows, task: PrepareTask, earlier: Iterable[Earlier], held_out: set[bytes]) -> dict[Split, Rows]:
    """The rows of each split; those with the same prompt are together."""
    labels: dict[bytes, str] = {}
    for row in rows:
        prompt = row.fingerprint.prompt
        labels[prompt] = max(labels.get(prompt, NO_LABEL), row.label)
    _require_prompts(labels, rows)
    data = task.order.data
    shares = Shares(0.0 if task.validation is not None else data.validation_share, data.holdout_share)
    fixed: dict[bytes, Split] = {row.fingerprint.prompt: "validation" for row in rows if row.is_validation}
    trained = {prompt for each in earlier for prompt in each.learned() if prompt in labels}
    fixed |= dict.fromkeys((labels.keys() & held_out) - trained, "holdout")
    of = split_prompts(labels, shares, fixed, trained)
    splits: dict[Split, Rows] = {split: [] for split in SPLITS}
    for row in rows:
        splits[of[row.fingerprint.prompt]].append(row)
    return splits


def _require_prompts(labels: Mapping[bytes, str], rows: Rows) -> None:
    if len(labels) < FEWEST_PROMPTS:
        raise JobFailed(
            "invalid_training_file",
            f"{len(rows)} usable rows with {len(labels)} different prompts are left; {FEWEST_PROMPTS} different "
            "prompts are needed to train on some and hold others out",
            "training_file",
        )


def _require_splits(splits: Mapping[Split, Rows], task: PrepareTask) -> None:
    """There must be something to learn, and something to judge what was learned by."""
    others = "the validation file has it, or it was held out for an earlier version"
    if not splits["train"]:
        message = f"no row is left to train on: of each prompt, {others}; add rows with other prompts"
        raise JobFailed("invalid_training_file", message, "training_file")
    if not splits["holdout"]:
        message = "no row can be held out for the gate: an earlier version was trained on each prompt; add new rows"
        if task.validation is not None:
            message = "no row is left to hold out for the gate: the validation file has each prompt; add other rows"
        raise JobFailed("invalid_training_file", message, "training_file")


def _require_scorable(held_out: Rows, shelf: Shelf) -> int:
    """How many rows that are held out the gate can score; there must be one."""
    scorable = sum(can_be_scored(shelf.row(row)) for row in held_out)
    if not scorable:
        message = (
            f"the answers of all {len(held_out)} rows that are held out are calls of tools, which the gate cannot "
            "score; add rows with answers of text"
        )
        raise JobFailed("invalid_training_file", message, "training_file")
    return scorable


def _replayed(
    task: PrepareTask,
    earlier: Earlier,
    intake: Intake,
    splits: Mapping[Split, Rows],
    report: Report,
    listener: Listener,
) -> Rows:
    """Rows that an earlier version was trained on, but for those whose prompt has come again."""
    share = task.order.data.replay_share
    wanted = int((_REPLAY_SHARE if share is None else share) * len(splits["train"]) + 0.5)
    report.replay = ReplayReport(task.replayed or "", wanted=wanted)
    if wanted and earlier.method != task.order.method:
        what = f"the earlier version was tuned by {earlier.method}, and this job is {task.order.method}"
        _warn(f"Nothing is replayed: {what}", report, listener)
        return []
    again = {row.fingerprint.prompt for rows in splits.values() for row in rows}
    taken = [intake.take(row) for row in earlier.draw(wanted, task.order.seed, again)] if wanted else []
    rows = [row for row in taken if isinstance(row, Shelved)]
    report.replay.rows = len(rows)
    if rows:
        listener.tell(f"Mixed in {len(rows):,} rows that the earlier version was trained on")
    if share and not wanted:
        what = f"a share of {share:g} of {len(splits['train']):,} rows is less than a row"
        _warn(f"Nothing is replayed: {what}", report, listener)
    elif share and len(rows) < wanted:
        what = f"{len(rows):,} rows are replayed of {wanted:,} that were asked for"
        _warn(f"{what}: the earlier version was trained on no others that the new files do not have", report, listener)
    return rows


def _tell_of_splits(splits: Mapping[Split, Rows], scorable: int, report: Report, listener: Listener) -> None:
    """Finish the report with what is in the splits, and say so; of what is held out `scorable` rows can be scored."""
    rows = [row for split in SPLITS for row in splits[split]]
    report.counts = {split: len(splits[split]) for split in SPLITS}
    report.sources = count_sources(rows)
    report.labels = _labels(splits)
    if report.tokens is not None:
        _report_tokens(rows, report.tokens)
    counts = report.counts
    listener.tell(
        f"The dataset has {counts['train']:,} rows to train on, {counts['validation']:,} to validate with, and "
        f"{counts['holdout']:,} held out for the gate"
    )
    if scorable < _SMALL_HOLDOUT:
        held = f"Only {scorable} rows are held out with an answer of text"
        _warn(f"{held}, by which the gate can hardly tell an improvement from chance", report, listener)


def _labels(splits: Mapping[Split, Rows]) -> dict[str, dict[str, int]]:
    """Rows by label and split, of the labels with the most rows."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for split, rows in splits.items():
        for row in rows:
            if row.label != NO_LABEL:
                counts[row.label][split] += 1
    largest = sorted(counts, key=lambda label: (-counts[label].total(), label))[:MOST_LABELS]
    return {label: {split: counts[label][split] for split in SPLITS} for label in sorted(largest)}


def _report_tokens(rows: Sequence[Shelved], tokens: TokensReport) -> None:
    sizes = array("Q", sorted(row.tokens for row in rows))
    tokens.total, tokens.learned = sum(sizes), sum(row.learned for row in rows)
    tokens.median, tokens.longest = sizes[len(sizes) // 2], sizes[-1]


def _about(task: PrepareTask, report: Report) -> dict[str, Any]:
    data = task.order.data
    return {
        "format": FORMAT,
        "method": task.order.method,
        "counts": report.counts,
        "sources": report.sources,
        "parents": list(task.parents),
        "split": {"rule": RULE, "validation_share": data.validation_share, "holdout_share": data.holdout_share},
        "seed": task.order.seed,
        "report": report.to_builtins(),
    }


def _warn(message: str, report: Report, listener: Listener) -> None:
    report.warnings.append(message)
    listener.tell(message, "warn")
