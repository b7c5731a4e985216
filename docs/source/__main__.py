"""Writes the pages anew that are made from code: ``python -m docs.source``."""

from docs.source.files import FOLDER, rendered

if __name__ == "__main__":
    for name, content in rendered().items():
        (FOLDER / name).write_text(content)
