"""The tuner's settings are all in its page."""

from pathlib import Path

from tuner.settings import TunerSettings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tuner.md"


def test_every_setting_is_in_the_page() -> None:
    """By its name in the environment, in the table; those that other processes have, too, are in other pages."""
    table = PAGE.read_text().partition("\n## Settings\n")[2].partition("\n## ")[0]
    assert [name for name in TunerSettings.__annotations__ if f"`OSTLER_{name.upper()}`" not in table] == []
