"""Writes the chart's README and the schema of its values anew: ``python -m helm.source``."""

from helm.source.files import FOLDER, rendered

if __name__ == "__main__":
    for name, content in rendered().items():
        (FOLDER / name).write_text(content)
