"""`ostler requests`, `usage`, `forget` and `export`: what the gateway recorded, for people, programs and files."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ostler.client import AdminClient, CommandFailed
from ostler.commands import parquet
from tests.conftest import until
from tests.ostler.command import DONE, MISUSED, REFUSED, Cli


@pytest.fixture
async def used(two: Cli) -> Cli:
    """The command, and a gateway that has answered three requests of ann."""
    for _ in range(3):
        assert (await two.gateway.chat("support", user="ann")).is_success

    async def recorded() -> bool:
        page = (await two.gateway.http.get("/admin/v1/requests")).json()
        return len(page["data"]) == 3

    await until(recorded)
    return two


async def test_requests_and_usage_are_shown_and_forgotten(used: Cli) -> None:
    """As tables, and as the API's JSON."""
    table = (await used("requests")).out
    assert table.count("support@1-") == 3
    assert len((await used("requests", "--user", "ann", "--limit", "2", "--json")).json["data"]) == 2
    assert "No such requests" in (await used("requests", "--user", "bob")).out
    shown = (await used("usage", "--by", "adapter", "--by", "variant", "--since", "2026-01-01")).out
    assert "support" in shown
    assert "stable" in shown
    assert (await used("usage", "--per", "all", "--json")).json["data"][-1]["requests"] == 3
    (await used("forget")).assert_failed(MISUSED, "--session or --user")
    assert "Deleted: 3 requests" in (await used("forget", "--user", "ann")).out
    (await used("requests", "--since", "yesterday")).assert_failed(MISUSED, "'yesterday' is no moment")


@pytest.mark.parametrize(
    ("what", "text", "expected"),
    [
        ("requests", True, {"limit": 100, "text": "true"}),
        ("requests", False, {"limit": 1000}),
        ("usage", False, {"limit": 1000, "since": "2000-01-01T00:00:00+00:00"}),
    ],
)
def test_an_export_asks_for_pages_that_the_api_gives_and_for_all_usage(
    what: str, text: bool, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages with text are smaller, and usage would be of 30 days if nothing were said."""
    asked: list[dict[str, Any]] = []

    def call(_self: object, _method: str, _path: str, params: dict[str, Any]) -> Any:
        asked.append(dict(params))
        return {"data": [], "has_more": False, "next": None}

    monkeypatch.setattr(AdminClient, "call", call)
    assert list(parquet._pages(AdminClient("http://x", "key"), what, {}, text=text)) == [[]]
    (params,) = asked
    assert expected.items() <= params.items()


async def test_an_export_holds_what_the_api_tells_with_types(used: Cli, tmp_path: Path) -> None:
    """Of requests and of usage; the file of before is replaced, and stays if the export fails."""
    file = tmp_path / "log.parquet"
    file.write_text("old")
    (await used("export", str(file), OSTLER_API_KEY="sk-ostler-wrong")).assert_failed(REFUSED)
    assert file.read_text() == "old"
    assert "3 rows" in (await used("export", str(file), "--text")).out
    table = pq.read_table(file)
    assert table.schema.field("started_at").type == pa.timestamp("us", tz="UTC")
    assert table.schema.field("prompt_tokens").type == pa.int64()
    expected = (await used("requests", "--oldest", "--json")).json["data"]
    assert table.column("id").to_pylist() == [each["id"] for each in expected]
    assert (await used("export", str(file), "--what", "usage")).code == DONE
    assert sum(pq.read_table(file).column("requests").to_pylist()) == 3
    assert (await used("export", str(file), "--what", "feedback")).code == DONE
    assert pq.read_table(file).num_rows == 0
    assert [each.name for each in tmp_path.glob(".log*")] == []


class Pages:
    """An admin API with very many requests, which breaks after some pages if it is told to."""

    def __init__(self, pages: int, breaks_at: int | None = None) -> None:
        self.pages, self.breaks_at, self.asked = pages, breaks_at, 0

    def call(self, _method: str, _path: str, params: dict[str, Any]) -> Any:
        """The next page."""
        assert params.get("after") == (str(self.asked) if self.asked else None)
        if self.asked == self.breaks_at:
            raise CommandFailed("the gateway went away", 3)
        self.asked += 1
        row: dict[str, Any] = dict.fromkeys(parquet._REQUESTS)
        row |= {"id": f"{self.asked:032}", "started_at": "2026-11-03T12:00:00Z", "status": 200, "streamed": False}
        return {"data": [row] * 1000, "has_more": self.asked < self.pages, "next": str(self.asked)}


def test_many_rows_are_written_in_groups(tmp_path: Path) -> None:
    """So that they need not all be in memory."""
    file = tmp_path / "many.parquet"
    pages: Any = Pages(50)
    assert parquet.write_parquet(pages, file, "requests", {}) == 50_000
    assert [pq.ParquetFile(file).metadata.row_group(n).num_rows for n in range(3)] == [20_000, 20_000, 10_000]


def test_an_export_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    """Neither the file nor a part of it."""
    pages: Any = Pages(50, breaks_at=30)
    with pytest.raises(CommandFailed, match="went away"):
        parquet.write_parquet(pages, tmp_path / "many.parquet", "requests", {})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    """In one line."""
    client: AdminClient = Pages(1)  # type: ignore[assignment]
    with pytest.raises(CommandFailed, match="cannot be written"):
        parquet.write_parquet(client, tmp_path / "no" / "x.parquet", "requests", {})
