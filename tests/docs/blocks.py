"""The commands of the documentation's pages, as tests run them."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def sections(page: str) -> dict[str, str]:
    """The commands (fenced as `sh`) under each heading of a page that has any."""
    found = {}
    for part in re.split(r"^#+ ", (DOCS / page).read_text(), flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        if blocks := re.findall(r"^```sh\n(.*?)^```$", body, flags=re.MULTILINE | re.DOTALL):
            found[title] = "".join(blocks)
    return found
