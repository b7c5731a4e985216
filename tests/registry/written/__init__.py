"""Data as each schema's own program wrote it: `NNNN.sql` is what migrations from that schema on start from.

`python -m tests.registry.written` writes the file of today's schema again, before a migration makes a newer one of it.
"""

from pathlib import Path

FOLDER = Path(__file__).parent


def statements(version: str) -> list[str]:
    """What puts the data of a schema into its empty tables; each line is one, in the words of SQLite and PostgreSQL."""
    return (FOLDER / f"{version}.sql").read_text().splitlines()
