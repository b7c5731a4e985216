"""How templates become pages: everything that is not ours in them goes through the template's escaping."""

from pathlib import Path

import jinja2

_HERE = Path(__file__).parent


def page_environment(folder: Path) -> jinja2.Environment:
    """The environment of the templates in a folder, which may include what this room has."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, _HERE]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def duration(seconds: float) -> str:
    """A time as a sentence has it."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
