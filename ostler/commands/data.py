"""Commands about files of rows: what a tuning job would make of one, and those that lie at the gateway."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ostler import render, tuning
from ostler.client import AdminClient, CommandFailed
from ostler.options import Json, Key, Url, save, show

if TYPE_CHECKING:
    from tuner.data.report import FileReport, Report

FileId = Annotated[str, typer.Argument(metavar="FILE_ID", help="Its id.", show_default=False)]


class MethodName(StrEnum):
    """What the rows are for."""

    supervised = "supervised"
    dpo = "dpo"


class Purpose(StrEnum):
    """What files at the gateway are for."""

    FINE_TUNE = "fine-tune"
    EVALS = "evals"
    RESULTS = "fine-tune-results"


def check(
    file: Annotated[Path, typer.Argument(help="JSON lines as in OpenAI's fine-tuning files.", show_default=False)],
    validation: Annotated[
        Path | None, typer.Option("--validation", metavar="FILE", help="Rows to validate with.", show_default=False)
    ] = None,
    method: Annotated[MethodName, typer.Option("--method", help="What the rows are for.")] = MethodName.supervised,
    tokenizer: Annotated[
        str,
        typer.Option(metavar="DIR", help="The base model's folder or id, to count tokens.", show_default="count none"),
    ] = "",
    longest: Annotated[
        int, typer.Option(min=0, help="Tokens of the longest row.", show_default="the base model's context")
    ] = 0,
    bad_rows_share: Annotated[float, typer.Option(min=0, max=1, help="How many rows may be unusable.")] = 0.05,
    near_duplicates: Annotated[
        float, typer.Option(min=0, max=1, help="Similarity from which two rows are one; 0 keeps all.")
    ] = 0.9,
    json: Json = False,
) -> None:
    """Say what a tuning job would make of a file; nothing is sent. Exit code 1 if it would refuse it."""
    for each in (file, validation):
        if each is not None and not each.is_file():
            raise CommandFailed(f"{each} is no file", 2)
    if 0 < near_duplicates < 0.5:
        raise CommandFailed("--near-duplicates must be 0, or from 0.5 to 1", 2)
    data = {"bad_rows_share": bad_rows_share, "near_duplicates": near_duplicates or None}
    report = _report(file, validation, method.value, data, tokenizer, longest)
    if json:
        render.plain(report.to_json())
    else:
        _tell(report)
    if report.problem is not None:
        raise typer.Exit(1)


def list_files(
    purpose: Annotated[
        Purpose | None, typer.Option(help="Only those of this purpose.", show_default="any purpose")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 20,
    after: Annotated[str | None, typer.Option(metavar="FILE_ID", help="Go on from this one.")] = None,
    json: Json = False,
    url: Url = "",
    api_key: Key = "",
) -> None:
    """List the files at the gateway, newest first: what was uploaded, and what jobs left."""
    show(tuning.files(AdminClient(url, api_key), limit, after=after, purpose=purpose), json, _table)


def delete(file_id: FileId, json: Json = False, url: Url = "", api_key: Key = "") -> None:
    """Delete a file. One that a job needs stays; what versions were trained on is kept without it."""
    answer = tuning.delete_file(AdminClient(url, api_key), file_id)
    show(answer, json, lambda deleted: render.out.print(f"{deleted['id']} is deleted."))


def get(
    file_id: FileId,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where it goes.")],
    url: Url = "",
    api_key: Key = "",
) -> None:
    """Fetch a file from the gateway: an uploaded one, or what a job left, as its bad rows."""
    content = tuning.download_file(AdminClient(url, api_key), file_id)
    save(out, content)
    render.out.print(f"{out}: {render.size(len(content))}")


def _table(answer: Any) -> None:
    rows = [
        (each["id"], each["purpose"], render.size(each["bytes"]), render.moment(each["created_at"]), _name(each))
        for each in answer["data"]
    ]
    render.table(("FILE", "PURPOSE", "SIZE", "SENT", "NAME"), rows, "No files.")
    if answer["has_more"]:
        render.out.print(f"There are more: --after {answer['data'][-1]['id']} goes on.")


def _name(file: Any) -> tuple[str, ...]:
    """Its name, and below it when it is deleted by itself, if that is said."""
    expires = file["expires_at"]
    return (file["filename"],) if expires is None else (file["filename"], f"until {render.moment(expires)}")


def _report(
    file: Path, validation: Path | None, method: str, data: dict[str, Any], tokenizer: str, longest: int
) -> "Report":
    """What the tuner says of the files."""
    try:  # only this command needs these libraries
        import msgspec

        from registry.base_model import read_config
        from registry.tuning.orders import TuningOrder
        from tuner.data.check import check_files

        asked = {"adapter": "any", "base": "any", "training_file": "any", "method": method, "data": data}
        order = msgspec.convert(asked, TuningOrder)
        config = (tokenizer and read_config(tokenizer)) or {}
        context = longest or config.get("max_position_embeddings", 0)
        return check_files(order, file, validation, tokenizer, context)
    except ModuleNotFoundError as error:
        raise CommandFailed(f"the library {error.name} is missing; install ostler[tuner]", 1) from error


def _tell(report: "Report") -> None:
    rows = [("training", *_file(report.training))]
    if report.validation is not None:
        rows.append(("validation", *_file(report.validation)))
    render.table(("FILE", "ROWS", "UNUSABLE", "WHY"), rows, "No files.")
    if any(file.more for file in (report.training, report.validation) if file is not None):
        render.out.print("--json lists every unusable row.")
    render.table(("WHAT", "FOUND"), _found(report), "Nothing found.")
    splits = [("all", *_counts(report.counts))] if report.counts else []
    labels = [(label, *_counts(counts)) for label, counts in report.labels.items()]
    render.table(("LABEL", "TRAIN", "VALIDATION", "HELD OUT"), splits + labels, "No dataset would be made.")
    for warning in report.warnings:
        render.out.print("warning:", render.words(warning), soft_wrap=True)
    if report.problem is not None:
        render.error(f"a job would refuse it ({report.problem.code}): {report.problem.message}")


def _file(file: "FileReport") -> tuple[object, ...]:
    return file.rows, file.bad, tuple(file.reasons) or None


def _found(report: "Report") -> Iterator[tuple[str, str]]:
    duplicates, personal, tokens = report.duplicates, report.personal, report.tokens
    near = "near ones not looked for" if duplicates.near is None else f"{duplicates.near:,} near"
    yield "duplicates dropped", f"{duplicates.exact:,} exact, {near}"
    if duplicates.conflicts:
        yield "conflicts, all kept", f"{duplicates.conflicts:,}"
    if personal is not None:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in personal.found.items())
        by = " and ".join(personal.finders)
        yield "personal data replaced", f"{kinds} in {personal.rows:,} rows, by {by}" if kinds else f"none, by {by}"
    if tokens is not None and tokens.total:
        limit = f", {tokens.limit:,} at most" if tokens.limit else ""
        yield "tokens", f"{tokens.total:,} in all, {tokens.learned:,} of which are learned"
        yield "tokens of a row", f"median {tokens.median:,}, longest {tokens.longest:,}{limit}"
    if report.sources:
        yield "sources", ", ".join(f"{count:,} {source}" for source, count in report.sources.items())


def _counts(counts: Mapping[str, int]) -> tuple[int, ...]:
    return counts["train"], counts["validation"], counts["holdout"]
