"""The documentation's site: built strictly, whole, and without anything from elsewhere."""

import logging
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
ADDRESS = "https://docs.example.com/"
LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Loaded(HTMLParser):
    """What a page has a browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the address of what is loaded."""
        values = dict(attrs)
        if tag in LOADING and values.get("rel") not in {"canonical", "next", "prev"}:
            self.addresses.append(values.get(LOADING[tag]) or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The built site's folder, and what the build warned of."""
    folder, warnings = tmp_path_factory.mktemp("site"), list[str]()

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warnings.append(record.getMessage())

    handler = Keep(logging.WARNING)
    logging.getLogger("mkdocs").addHandler(handler)
    try:
        own: dict[str, Any] = {"site_dir": str(folder), "site_url": ADDRESS, "strict": False}
        config: Any = load_config(str(ROOT / "mkdocs.yml"), **own)
        build(config)
    finally:
        logging.getLogger("mkdocs").removeHandler(handler)
    return folder, warnings


def test_it_builds_without_a_warning(site: tuple[Path, list[str]]) -> None:
    """No link and no anchor leads nowhere, and no page is missing or outside of the navigation."""
    _, warnings = site
    assert warnings == []


def test_a_real_build_is_strict() -> None:
    """So what is a warning here ends `make docs`."""
    config: Any = load_config(str(ROOT / "mkdocs.yml"))
    assert config.strict
    checks = {**config.validation["links"], **config.validation["nav"]}
    assert all(level >= logging.WARNING for level in checks.values())


def test_pages_load_nothing_from_elsewhere(site: tuple[Path, list[str]]) -> None:
    """No fonts, no scripts, no counters: whoever reads is known to nobody."""
    folder, _ = site
    pages = list(folder.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text())
        assert not [one for one in loaded.addresses if "//" in one], page.name


def test_search_engines_are_told_every_page(site: tuple[Path, list[str]]) -> None:
    """Where the site's address is known, the site map has them all."""
    folder, _ = site
    told = set(re.findall(r"<loc>(.+)</loc>", (folder / "sitemap.xml").read_text()))
    assert told == {f"{ADDRESS}{page.stem}.html" for page in PAGES}


def test_what_makes_the_pages_is_no_page(site: tuple[Path, list[str]]) -> None:
    """The generators stay out of the site."""
    folder, _ = site
    assert not (folder / "source").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_begins_with_what_it_is_for(page: Path) -> None:
    """A title, and then a sentence: no table, no code, no second title."""
    title, _, rest = page.read_text().partition("\n\n")
    assert re.fullmatch(r"# .+", title)
    assert re.match(r"[A-Z`*\[](?!``)", rest), rest[:60]
    assert "." in rest.partition("\n\n")[0] or ":" in rest.partition("\n\n")[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_lists_and_tables_stand_by_themselves(page: Path) -> None:
    """The site takes a list or a table for one only after an empty line, and code hosts do without."""
    before, in_code = "", False
    for line in page.read_text().splitlines():
        in_code ^= line.lstrip().startswith("```")
        begins = re.match(r"([-*]|\d+\.) |\|", line)
        continues = not before.strip() or re.match(r"\s*([-*]|\d+\.) |\||  ", before)
        assert in_code or not begins or continues, line
        before = line


def test_pictures_are_small() -> None:
    """And few: they are in every clone."""
    pictures = list((ROOT / "docs" / "assets").glob("*.png"))
    assert 0 < len(pictures) <= 6
    assert all(picture.stat().st_size < 200_000 for picture in pictures)
