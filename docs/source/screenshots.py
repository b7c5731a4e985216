"""Takes the pictures of pages that Ostler makes: ``python -m docs.source.screenshots PAGE.html NAME``.

The pages are those of a real run: ``ostler demo --report story.html``, ``ostler show NAME@VERSION --report gate.html``
and ``ostler drift NAME --report drift.html``. It needs Chromium, which no test does: the pictures are committed.
"""

import argparse
import shutil
import subprocess
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "assets"
LARGEST_BYTES = 200_000
SIZES = {"story": (1000, 1010), "gate": (1000, 1250), "drift": (1200, 900)}
"""Pixels of each picture: width and height from the page's top."""
_SETTLES_MS = 9000
"""Evidently's page draws its plots by scripts."""


def take(page: Path, name: str) -> Path:
    """Picture the top of a page.

    Raises:
        SystemExit: there is no Chromium, or the picture is too large.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("this needs Chromium: install it with your system's package manager")
    width, height = SIZES[name]
    picture = FOLDER / f"{name}.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    options += [f"--virtual-time-budget={_SETTLES_MS}", f"--window-size={width},{height}", f"--screenshot={picture}"]
    subprocess.run([browser, *options, page.resolve().as_uri()], check=True, capture_output=True)
    if picture.stat().st_size > LARGEST_BYTES:
        raise SystemExit(f"{picture.name} has {picture.stat().st_size:,} bytes; {LARGEST_BYTES:,} are allowed")
    return picture


def main() -> None:
    """One page, one picture."""
    parser = argparse.ArgumentParser(description="Picture the top of a page that Ostler made.")
    parser.add_argument("page", type=Path, help="the page, a file of HTML")
    parser.add_argument("name", choices=sorted(SIZES), help="which picture it is")
    given = parser.parse_args()
    take(given.page, given.name)


if __name__ == "__main__":
    main()
