"""A version as the tuner made it, and its gate's report, as people read them."""

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from ostler.render import out, size, table, when, words

_DIGEST = 64
_DIGEST_SHOWN = 12


def show_report(report: Any) -> None:
    """The verdict, a table of the parts that it rests on, each with its numbers in a sentence, and what was asked."""
    verdict = "passed" if report["passed"] else "rejected"
    style = "green" if report["passed"] else "red"
    out.print(Text.assemble("The gate: ", (verdict, style), ". ", words(report["reason"])), soft_wrap=True)
    tell_loosened(report)
    if (attempt := report.get("attempt") or 1) > 1:
        out.print(f"It was attempt {attempt} on this holdout, and nothing corrects for their number.")
    decide = [(_name(part), "passed" if part["passed"] else "FAILED", part["reason"]) for part in _parts(report)]
    told = [(_name(part), "only told", part["reason"]) for part in report.get("told", [])]
    if decide:
        table(("PART", "VERDICT", "WHY"), decide + told, "")
    if sets := report.get("sets"):
        asked = [(name, each["name"], each["rows"], each["digest"][:_DIGEST_SHOWN]) for name, each in sets.items()]
        table(("ASKED", "NAME", "ROWS", "SHA-256"), asked, "")


def tell_loosened(report: Any) -> None:
    """What its job asked for less than the defaults do, if anything."""
    if fields := report.get("loosened"):
        said = ", ".join(
            f"{name} {_setting(field['value'])} in place of {_setting(field['default'])}"
            for name, field in fields.items()
        )
        told = Text.assemble(("Its job asked for less than the defaults do", "yellow"), ": ", words(said), ".")
        out.print(told, soft_wrap=True)


def _setting(value: Any) -> str:
    """A value of a gate's order; None is a set that is not the job's own."""
    if value is None:
        return "the tuner's own set"
    return value if isinstance(value, str) else f"{value:g}"


def _parts(report: Any) -> list[Any]:
    """Those that failed first; a job that was cancelled at its gate has none."""
    return sorted(report.get("parts", []), key=lambda part: bool(part["passed"]))


def show_version(adapter: str, version: Any) -> None:
    """One version: where it stands, what it was made from, and its gate's report."""
    verdict = {None: "pushed by hand", "candidate": "at its gate", "passed": "passed its gate"}
    heading = f"{version['state']}, {verdict.get(version['verdict'], 'rejected by its gate')}"
    out.print(Text.assemble((f"{adapter}@{version['number']}", "bold"), f" {heading}"))
    about = {
        "name": version["engine_name"],
        "rank, alpha": f"{version['rank']}, {version['alpha']:g}",
        "size": size(version["size_bytes"]),
        "registered": f"{when(version['created_at'])} by {version['created_by']}",
        "note": version["note"],
    }
    rows = [(name, value) for name, value in about.items() if value]
    table(("VERSION", ""), [*rows, *_lineage(version["lineage"] or {})], "")
    if version["report"]:
        show_report(version["report"])


def _lineage(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Whatever stands there, a line each; digests as far as people compare them."""
    if isinstance(value, dict):
        for below, each in value.items():
            yield from _lineage(each, f"{name}.{below}" if name else str(below))
    elif value not in (None, "", []):
        said = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        yield name, said[:_DIGEST_SHOWN] if len(said) == _DIGEST and " " not in said else said


def _name(part: Any) -> str:
    """Its name, with what scored it where that says more."""
    name = str(part["name"]).replace("_", " ")
    return name if part["scorer"] in ("", None, part["name"]) else f"{name} ({part['scorer']})"
