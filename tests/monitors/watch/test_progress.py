"""Windows are claimed once, and cursors move with the work that they mark."""

from sqlalchemy.ext.asyncio import AsyncEngine

from monitors.watch.progress import claim_window, cursor, move_cursor


async def test_a_window_is_claimed_once(database: AsyncEngine) -> None:
    """Other windows, subjects and jobs stay free."""
    async with database.begin() as connection:
        assert await claim_window(connection, "drift", "support@1", "2026-11-21T10")
    async with database.begin() as connection:
        assert not await claim_window(connection, "drift", "support@1", "2026-11-21T10")
        assert await claim_window(connection, "drift", "support@1", "2026-11-21T11")
        assert await claim_window(connection, "drift", "support@2", "2026-11-21T10")
        assert await claim_window(connection, "golden", "support@1", "2026-11-21T10")


async def test_work_that_is_rolled_back_gives_its_window_free(database: AsyncEngine) -> None:
    """So that it is done by the next try."""
    async with database.connect() as connection:
        assert await claim_window(connection, "drift", "support@1", "w")
        await connection.rollback()
    async with database.begin() as connection:
        assert await claim_window(connection, "drift", "support@1", "w")


async def test_a_cursor_moves(database: AsyncEngine) -> None:
    """Each job's and subject's is its own."""
    async with database.begin() as connection:
        assert await cursor(connection, "scoring", "support") is None
        await move_cursor(connection, "scoring", "support", "1")
        await move_cursor(connection, "scoring", "support", "2")
        await move_cursor(connection, "scoring", "other", "9")
    async with database.connect() as connection:
        assert await cursor(connection, "scoring", "support") == "2"
        assert await cursor(connection, "scoring", "other") == "9"
        assert await cursor(connection, "quality", "support") is None
