"""Pieces of Markdown that several pages are made of."""

from collections.abc import Iterable, Sequence

WRITTEN = "<!-- Written by `python -m docs.source`; change the code that it is made from. -->"


def page(title: str, purpose: str, *blocks: str) -> str:
    """A page: its title, the sentence that says what it is for, and what follows."""
    return "\n\n".join((f"# {title}", purpose, *blocks, WRITTEN)) + "\n"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. A bar in a cell would end it, so cells must have none."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def code(words: object) -> str:
    """Words as code; nothing stays nothing."""
    return f"`{words}`" if str(words) else ""


def listed(words: Iterable[str]) -> str:
    """Words with commas."""
    return ", ".join(words)


def prose(text: str) -> str:
    """A docstring's text on one line for each paragraph."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n")).strip()


def _cell(text: str) -> str:
    if "|" in text:
        raise ValueError(f"a bar in a cell of a table: {text}")
    return " ".join(text.split())
