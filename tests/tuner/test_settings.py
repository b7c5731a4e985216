"""The tuner's settings are all in its pages."""

from pathlib import Path

from tuner.settings import TunerSettings

DOCS = Path(__file__).resolve().parents[2] / "docs"
TABLES = {"tuner.md": "Settings", "tuning-on-kubernetes.md": "Settings of the dispatcher"}


def table(page: str) -> str:
    """The section of a page that tells settings."""
    return (DOCS / page).read_text().partition(f"\n## {TABLES[page]}\n")[2].partition("\n## ")[0]


def test_every_setting_is_in_a_page() -> None:
    """By its name in the environment, in a table; those that other processes have, too, are in other pages."""
    told = "".join(map(table, TABLES))
    assert [name for name in TunerSettings.__annotations__ if f"`OSTLER_{name.upper()}`" not in told] == []
