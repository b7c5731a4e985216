"""Writes the dashboards' JSON files anew: ``python -m helm.dashboards.source``."""

from helm.dashboards.source.files import FOLDER, rendered

if __name__ == "__main__":
    for name, content in rendered().items():
        (FOLDER / name).write_text(content)
