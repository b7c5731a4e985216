"""Every dashboard with the name of its file."""

import json
from pathlib import Path

from helm.dashboards.source.adapter import ADAPTER
from helm.dashboards.source.engines import ENGINES
from helm.dashboards.source.overview import OVERVIEW
from helm.dashboards.source.tuning import TUNING

FOLDER = Path(__file__).resolve().parent.parent


def rendered() -> dict[str, str]:
    """What each file holds, by its name."""
    boards = {"overview": OVERVIEW, "adapter": ADAPTER, "engines": ENGINES, "tuning": TUNING}
    return {f"{name}.json": json.dumps(board.build(), indent=2) + "\n" for name, board in boards.items()}
