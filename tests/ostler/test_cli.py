"""The `ostler` command: the ways of a newcomer and of an operator, refusals, and where it finds its gateway."""

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from gateway.settings import GatewaySettings
from ostler.cli import app
from ostler.settings import UpSettings
from tests.conftest import RunningGateway, tar_of
from tests.ostler.command import DONE, MISUSED, REFUSED, UNREACHABLE, Cli, as_process

DEPLOYMENT = {"revision", "stable", "canary", "shadow", "fallback"}


async def test_a_newcomers_way_for_people(cli: Cli) -> None:
    """Push, promote, push, promote, roll back: each says in words what is so now and what comes next."""
    cli = as_process(cli)
    empty = await cli("list")
    assert "No adapters yet" in empty.out
    pushed = await cli("push", cli.adapter(1.0), "--adapter", "support", "--note", "first")
    assert "support version 1 is registered." in pushed.out
    assert "ostler promote support 1" in pushed.out
    assert "was there already" in (await cli("push", cli.adapter(1.0), "--adapter", "support")).out
    assert "support serves version 1 (revision 1)." in (await cli("promote", "support", "1")).out
    live = await cli("push", cli.adapter(2.0), "--adapter", "support", "--promote")
    assert "support version 2 is registered and live." in live.out
    why = await cli("push", cli.adapter(3.0), "--adapter", "other", "--promote", "-m", "the first")
    assert why.code == DONE
    assert "the first" in (await cli("history", "other")).out
    assert "support serves version 1 (revision 3)." in (await cli("rollback", "support", "-m", "too slow")).out
    shown = (await cli("show", "support")).out
    assert "support on tiny: serves version 1 since revision 3" in shown
    assert "support@1-" in shown
    assert "first" in shown
    assert "support@1-" in (await cli("list")).out
    assert "too slow" in (await cli("history", "support")).out


async def test_a_newcomers_way_for_programs(cli: Cli) -> None:
    """The same with --json: the admin API's own answers, in the shapes that the design fixes."""
    assert (await cli("list", "--json")).json == {"data": [], "has_more": False}
    pushed = (await cli("push", cli.adapter(1.0), "--adapter", "support", "--json")).json
    assert (pushed["adapter"], pushed["created"], pushed["version"]["number"]) == ("support", True, 1)
    again = (await cli("push", cli.adapter(1.0), "--adapter", "support", "--json")).json
    assert (again["created"], again["version"]) == (False, pushed["version"])
    promoted = (await cli("promote", "support", "1", "--json")).json
    assert promoted["deployment"]["stable"] == 1
    await cli("push", cli.adapter(2.0), "--adapter", "support", "--promote")
    rolled = (await cli("rollback", "support", "--reason", "too slow", "--json")).json
    assert rolled["deployment"] == {"revision": 3, "stable": 1, "canary": None, "shadow": None, "fallback": None}
    (adapter,) = (await cli("list", "--json")).json["data"]
    assert adapter == (await cli("show", "support", "--json")).json
    assert adapter.keys() >= {"name", "base", "deployment", "versions"}
    assert adapter["deployment"].keys() == DEPLOYMENT
    for version in adapter["versions"]:
        assert version.keys() >= {"number", "engine_name", "digest", "state", "created_at"}
    assert [version["state"] for version in adapter["versions"]] == ["live", "resident"]
    page = (await cli("history", "support", "--limit", "2", "--json")).json
    assert page["has_more"] is True
    assert [row["revision"] for row in page["data"]] == [3, 2]
    assert page["data"][0]["reason"] == "too slow"
    assert (await cli("rollback", "support", "--to", "2", "--json")).json["deployment"]["stable"] == 2


async def test_refusals_are_one_line_and_exit_1(two: Cli) -> None:
    """The gateway's own words, with status and code."""
    (await two("show", "nobody")).assert_failed(REFUSED, "there is no adapter 'nobody'", "404 not_found")
    (await two("history", "nobody")).assert_failed(REFUSED, "404 not_found")
    (await two("promote", "support", "9", "--json")).assert_failed(REFUSED, "no version 9", "404 not_found")
    (await two("rollback", "support")).assert_failed(REFUSED, "nothing before revision 1", "409 nothing_to_roll_back")
    (await two("rollback", "support", "--to", "7")).assert_failed(REFUSED, "no revision 7", "404 not_found")
    (await two("keys", "revoke", "key_0")).assert_failed(REFUSED, "no key", "404 not_found")
    (await two("list", OSTLER_API_KEY="sk-wrong")).assert_failed(REFUSED, "401 invalid_api_key")
    (await two("push", two.adapter(3.0), "--adapter", "tiny")).assert_failed(REFUSED, "base model", "422 invalid_name")


async def test_a_bad_adapter_is_refused_with_its_reason(two: Cli) -> None:
    """What is wrong with which file, and 413 for what is too large, though it is still being sent."""
    folder = Path(two.adapter(3.0))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    (await two("push", str(folder), "--adapter", "other")).assert_failed(REFUSED, "use_dora", "422 invalid_adapter")
    (folder / "adapter_model.safetensors").write_bytes(bytes(40 << 20))
    (await two("push", str(folder), "--adapter", "other")).assert_failed(REFUSED, "limit", "413 request_too_large")
    assert len((await two("list", "--json")).json["data"]) == 1


async def test_a_wrong_command_line_exits_2(two: Cli, tmp_path: Path) -> None:
    """Without asking the gateway; what the command can only see when it runs is one line, too."""
    for arguments in (
        ("promote", "support"),
        ("promote", "support", "0"),
        ("nonsense",),
        ("keys", "create", "x", "--days", "1000000000"),
    ):
        ran = await two(*arguments, OSTLER_URL="http://127.0.0.1:1")
        assert (ran.code, ran.out) == (MISUSED, ""), arguments
        assert "Usage:" in ran.err
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    for source, says in (("nowhere", "no folder"), ("empty", "adapter_config.json"), ("notes.txt", "neither")):
        (await two("push", str(tmp_path / source), "--adapter", "x")).assert_failed(MISUSED, says)
    (await two("push", two.adapter(3.0), "--adapter", "x", "-m", "why")).assert_failed(MISUSED, "--promote")
    (await two("list", OSTLER_API_KEY="")).assert_failed(MISUSED, "OSTLER_API_KEY", "--api-key")
    (await two("list", OSTLER_API_KEY="ключ")).assert_failed(MISUSED, "API key")
    (await two("list", OSTLER_URL="localhost")).assert_failed(MISUSED, "'localhost'", "http://")


async def test_no_gateway_exits_3(cli: Cli) -> None:
    """Nobody listens there, or somebody else does."""

    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()

    other = await asyncio.start_server(greet, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}"
    (await cli("list", OSTLER_URL=url)).assert_failed(UNREACHABLE, url, "not an Ostler gateway")
    other.close()
    await other.wait_closed()
    (await cli("list", OSTLER_URL=url)).assert_failed(UNREACHABLE, url, "OSTLER_URL")


async def test_odd_names_do_not_lead_elsewhere(two: Cli) -> None:
    """They are one part of the path, whatever is in them: refused in one line, and nothing is made or changed."""
    before = (await two.gateway.http.get("/admin/v1/adapters")).json()
    folder = two.adapter(3.0)
    commands: list[tuple[str, ...]] = [
        ("keys", "revoke", "../adapters/support"),
        ("promote", "../adapters/support", "2"),
    ]
    for name in ("a/b", "../keys", "a?b=c#d", "support%2Fhistory", "[/x] [red]y", "ä\nö\x1b"):
        commands += [("show", name), ("push", folder, "--adapter", name)]
    for ran in await asyncio.gather(*(two(*command) for command in commands)):
        ran.assert_failed(REFUSED)
        assert "\x1b" not in ran.err
    for name in ("", ".", ".."):  # which would be other paths however they are written
        (await two("show", name)).assert_failed(MISUSED, "not a name")
    assert (await two.gateway.http.get("/admin/v1/adapters")).json() == before


async def test_notes_are_shown_as_they_are(cli: Cli) -> None:
    """Brackets are no markup, words between colons no emoji, and a terminal's control codes do nothing."""
    await cli("push", cli.adapter(1.0), "--adapter", "support", "--note", "[/x] [red]a[/red] :smile: \x1b[31m")
    shown = (await cli("show", "support")).out
    assert "[/x] [red]a[/red] :smile: \ufffd[31m" in shown


async def test_a_push_takes_archives_and_what_a_hub_cache_is_made_of(cli: Cli, tmp_path: Path) -> None:
    """A tar of a folder and a folder of links are the same version; what else lies there is not sent."""
    folder = Path(cli.adapter(1.0))
    archive = tmp_path / "adapter.tar"
    archive.write_bytes(tar_of(folder))
    links = tmp_path / "snapshot"
    links.mkdir()
    for file in folder.iterdir():
        (links / file.name).symlink_to(file)
    (links / "optimizer.pt").write_bytes(bytes(9 << 20))
    for source, created in ((folder, True), (archive, False), (links, False)):
        answer = (await cli("push", str(source), "--adapter", "support", "--json")).json
        assert (answer["created"], answer["version"]["number"]) == (created, 1)


async def test_flags_win_over_the_environment_and_that_over_the_key_file(two: Cli, tmp_path: Path) -> None:
    """`ostler up` leaves a key in its home, which is used where nothing else is said."""
    wrong = {"OSTLER_URL": "http://127.0.0.1:1", "OSTLER_API_KEY": "sk-wrong"}
    flags = ("--url", two.gateway.url + "/", "--api-key", two.gateway.key)
    assert (await two("list", *flags, **wrong)).code == DONE
    (tmp_path / "cli-home").mkdir()
    (tmp_path / "cli-home" / "admin.key").write_text(two.gateway.key + "\n")
    assert (await two("list", OSTLER_API_KEY="")).code == DONE
    (await two("list", OSTLER_API_KEY="sk-wrong")).assert_failed(REFUSED, "401")


def _commands(command: Any, path: str = "ostler") -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from _commands(below, f"{path} {name}")


def test_everything_has_help() -> None:
    """Each command, argument and option says what it is for."""
    commands = dict(_commands(typer.main.get_command(app)))
    assert {"ostler push", "ostler canary", "ostler replicas", "ostler keys rotate", "ostler up"} <= commands.keys()
    for path, command in commands.items():
        assert command.help, path
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{path} {parameter.name}"


def test_flags_of_processes_reach_their_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the settings' own names; a flag that is not given leaves room for the environment."""
    given: list[dict[str, Any]] = []

    def run(flags: dict[str, Any]) -> int:
        given.append(flags)
        return 0

    monkeypatch.setattr("ostler.serve.run_gateway", run)
    monkeypatch.setattr("ostler.up.run_up", run)
    for arguments in (
        ["gateway", "--workers", "3", "--engine-dns", "engines:8000", "--base", "tiny"],
        ["up", "--replicas", "2", "--port", "0"],
        ["gateway"],
    ):
        assert CliRunner().invoke(app, arguments).exit_code == 0
    assert given == [
        {"workers": 3, "engine_dns": "engines:8000", "base": "tiny"},
        {"replicas": 2, "port": 0},
        {},
    ]
    for flags, kind in zip(given, (GatewaySettings, UpSettings, GatewaySettings), strict=True):
        assert flags.keys() <= kind.model_fields.keys()


async def test_help_and_version_are_printed(cli: Cli) -> None:
    """With exit code 0, without a gateway or a key."""
    for arguments, says in (
        (("--help",), "rollback"),
        (("rollback", "--help"), "--reason"),
        (("keys", "-h"), "revoke"),
    ):
        ran = await cli(*arguments, OSTLER_URL="", OSTLER_API_KEY="")
        assert ran.code == DONE
        assert says in ran.out
    assert (await cli("--version")).out.startswith("ostler ")


async def test_address_and_key_of_this_machine_are_found(gateway: RunningGateway, tmp_path: Path) -> None:
    """`ostler up` leaves both in its home; nothing else need be said on the same machine."""
    home = tmp_path / "kept"
    home.mkdir()
    (home / "address").write_text(gateway.url + "\n")
    (home / "admin.key").write_text(gateway.key + "\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OSTLER_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ostler",
        "list",
        "--json",
        env=kept | {"OSTLER_HOME": str(home)},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    assert json.loads(output) == {"data": [], "has_more": False}
