"""`ostler migrate`: what it says that it did, and what it wants leave for."""

import pytest
from sqlalchemy import text

from registry.database import SCHEMA_VERSION, check_schema, connect
from tests.ostler.command import DONE, MISUSED, REFUSED, Cli, Ran


class Migrate:
    """The command on a database of each kind."""

    def __init__(self, cli: Cli, database_url: str) -> None:
        self.cli, self.database_url = cli, database_url

    async def __call__(self, *arguments: str) -> Ran:
        """Run it."""
        return await self.cli("migrate", *arguments, OSTLER_DATABASE_URL=self.database_url)

    async def freeze(self) -> None:
        """Put in a row that schemas before 0006 have no place for."""
        engine = connect(self.database_url)
        async with engine.begin() as connection:
            said = "INSERT INTO stops (adapter, actor, reason, created_at) VALUES ('', 'ann', '', CURRENT_TIMESTAMP)"
            await connection.execute(text(said))
        await engine.dispose()


@pytest.fixture
def migrate(cli: Cli, database_url: str) -> Migrate:
    """The command, and a database of its own."""
    return Migrate(cli, database_url)


async def test_a_new_database_gets_its_schema(cli: Cli) -> None:
    """And the line says that it had none."""
    ran = await cli("migrate")
    assert (ran.code, ran.out, ran.err) == (DONE, f"schema none -> {SCHEMA_VERSION}\n", "")


async def test_what_was_done_is_one_line(migrate: Migrate) -> None:
    """Nothing to do, down where nothing is lost, and up: from which schema to which, alone on stdout."""
    assert (await migrate()).code == DONE
    ways = {
        ("--to", SCHEMA_VERSION): f"schema {SCHEMA_VERSION} already",
        ("--to", "0005"): f"schema {SCHEMA_VERSION} -> 0005",
        ("--to", "0006"): "schema 0005 -> 0006",
    }
    for arguments, says in ways.items():
        ran = await migrate(*arguments)
        assert (ran.code, ran.out, ran.err) == (DONE, f"{says}\n", "")


async def test_rows_go_only_with_leave(migrate: Migrate) -> None:
    """Without it the command line is wrong, the line says what would go, and nothing is done."""
    await migrate()
    await migrate.freeze()
    refused = await migrate("--to", "0005")
    refused.assert_failed(MISUSED, f"from schema {SCHEMA_VERSION} to 0005 would lose stops (1 row)", "say --yes")
    engine = connect(migrate.database_url)
    await check_schema(engine)
    await engine.dispose()
    assert (await migrate("--to", "0006")).code == DONE, "0006 has a place for it"
    done = await migrate("--to", "0005", "--yes")
    assert (done.code, done.out, done.err) == (DONE, "schema 0006 -> 0005\n", "Lost: stops (1 row).\n")


async def test_an_unknown_schema_is_refused(migrate: Migrate) -> None:
    """Also with leave to lose rows."""
    (await migrate("--to", "9999", "--yes")).assert_failed(REFUSED, "knows the schemas", "not 9999")
