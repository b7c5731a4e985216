"""The generated pages as they should be, and where they lie."""

from pathlib import Path

from docs.source import api, commands, licences, settings

FOLDER = Path(__file__).parents[1]
_PAGES = {
    "settings.md": settings.page,
    "commands.md": commands.page,
    "api.md": api.page,
    "api-shapes.md": api.shapes_page,
    "licences.md": licences.page,
}


def rendered() -> dict[str, str]:
    """Each page's name and content."""
    return {name: make() for name, make in _PAGES.items()}
