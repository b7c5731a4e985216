"""What is made of the values and the settings, with the names of the files."""

import json
from pathlib import Path

from helm.source.readme import readme
from helm.source.schema import schema

FOLDER = Path(__file__).resolve().parent.parent


def rendered() -> dict[str, str]:
    """What each file holds, by its name."""
    return {
        "README.md": readme((FOLDER / "values.yaml").read_text()),
        "values.schema.json": json.dumps(schema(), indent=2) + "\n",
    }
