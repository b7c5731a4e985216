"""Settings: where they come from, and what is said of wrong ones."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import demo
from gateway.app import create_app
from gateway.settings import GatewaySettings
from ostler.client import CommandFailed
from ostler.serve import read_settings, run_gateway, run_migrate, summary
from ostler.settings import UpSettings, gateway_environment
from ostler.up import _with_ports, run_up


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder and an environment without anyone's settings."""
    monkeypatch.chdir(tmp_path)
    for name in GatewaySettings.model_fields | UpSettings.model_fields:
        monkeypatch.delenv(f"OSTLER_{name.upper()}", raising=False)
    return tmp_path


def test_flags_win_over_environment_and_that_over_the_file(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the three is heard where the one before is silent."""
    (own_folder / "ostler.toml").write_text("port = 1001\nengine_slots = 11\npoll_s = 7.5\n")
    monkeypatch.setenv("OSTLER_PORT", "1002")
    monkeypatch.setenv("OSTLER_ENGINE_SLOTS", "12")
    settings = read_settings(GatewaySettings, {"port": 1003})
    assert (settings.port, settings.engine_slots, settings.poll_s) == (1003, 12, 7.5)


def test_without_a_base_model_up_serves_the_demo() -> None:
    """With what the demo needs."""
    settings = read_settings(UpSettings, {})
    assert settings.is_demo
    assert (settings.base, settings.base_model) == (demo.BASE_NAME, str(demo.BASE_DIR))


@pytest.mark.parametrize(("model", "name"), [("org/model-8B", "org/model-8B"), ("{folder}/my-model", "my-model")])
def test_a_base_model_without_a_name_has_its_own(own_folder: Path, model: str, name: str) -> None:
    """A hub's id is its own name, a folder is called as its last part."""
    (own_folder / "my-model").mkdir()
    settings = read_settings(UpSettings, {"base_model": model.format(folder=own_folder)})
    assert (settings.base, settings.is_demo, settings.max_model_len) == (name, False, None)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (UpSettings, {}),
        (UpSettings, {"port": 1234, "engine_slots": 5, "request_timeout_s": 12.5, "workers": 3}),
        (UpSettings, {"database_url": 'postgresql://user:a b%2F"c@host/name?x=1', "limits_url": "redis://h:1"}),
        (
            GatewaySettings,
            {"pools": [{"base": "one", "engine_dns": "a:1"}, {"base": "two", "engine_url": "http://a:1,http://b:2"}]},
        ),
        (GatewaySettings, {"limits_url": "unix:///run/redis.sock", "drain_delay_s": 2.5}),
    ],
)
def test_the_gateways_process_gets_every_setting(
    monkeypatch: pytest.MonkeyPatch, kind: type[GatewaySettings], given: dict[str, Any]
) -> None:
    """What its parent was told reaches it by the environment, unchanged."""
    told = read_settings(kind, given)
    for name, value in gateway_environment(told).items():
        monkeypatch.setenv(name, value)
    heard = read_settings(GatewaySettings, {})
    assert heard.model_dump() == {name: told.model_dump()[name] for name in GatewaySettings.model_fields}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("prot = 8081", "there is no setting 'prot'; is it 'port'?"),
        ("port = 70000", "port: Input should be less than or equal to 65535"),
        ('engine_url = "vllm:8000"', "engine_url: must begin with http:// or https://"),
        ("port = ", "ostler.toml cannot be read"),
    ],
)
def test_a_wrong_line_is_named(own_folder: Path, line: str, says: str) -> None:
    """With what would be right, and exit code 2."""
    (own_folder / "ostler.toml").write_text(line + "\n")
    with pytest.raises(CommandFailed) as refused:
        read_settings(GatewaySettings, {})
    assert says in str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"home": "/proc/no-such-folder"}, "cannot be made"),
        ({"base_model": "/no/such/model"}, "there is no model"),
        ({"database_url": "mysql://user:secret@host/name"}, "Ostler knows sqlite and postgresql"),
        ({"host": "192.0.2.1"}, "cannot listen on 192.0.2.1"),
    ],
)
def test_up_says_why_it_cannot_start(own_folder: Path, given: dict[str, str], says: str) -> None:
    """In words, before any process is started."""
    with pytest.raises(CommandFailed) as refused:
        run_up({"home": own_folder / "home", "port": 0} | given)
    assert says in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_base_name_without_a_model_is_refused() -> None:
    """Rather than that the demo is served under a name that means another model."""
    with pytest.raises(CommandFailed, match="base_model"):
        read_settings(UpSettings, {"base": "my-model"})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"log_level": "loud"}, "log_level"),
        ({"engine_args": '"unbalanced'}, "engine_args: No closing quotation"),
        ({"replicas": 0}, "replicas"),
        ({"replicas": 3, "engine_port": 65534}, "engine_port leaves no ports for 3 replicas"),
        ({"pools": [{"base": "one", "engine_dns": "a:1"}]}, "pools: .*`ostler up` starts the engines itself"),
        ({"engine_dns": "engines:8000"}, "engine_dns: .*`ostler up` starts the engines itself"),
    ],
)
def test_a_wrong_value_is_refused_by_its_setting(given: dict[str, Any], says: str) -> None:
    """Not by a stack trace later."""
    with pytest.raises(CommandFailed, match=says):
        read_settings(UpSettings, given)


def pool(base: str, **engines: str) -> dict[str, str]:
    """A pool as settings name it."""
    return {"base": base, **engines}


@pytest.mark.parametrize(
    ("pools", "says"),
    [
        (
            [pool("a", engine_url="http://a:1"), pool("b")],
            "the pool of 'b' is wrong: must have engine_url or engine_dns",
        ),
        ([pool("b", engine_url="http://b:1", engine_dns="b:1")], "the pool of 'b' is wrong: .*, not both"),
        ([pool("b", engine_url="b:1")], "the pool of 'b' is wrong: engine_url must begin with http"),
        ([pool("b", engine_url="http://b:1,http://b:x")], "the pool of 'b' is wrong: engine_url must be an address"),
        ([pool("b", engine_dns="engines")], "the pool of 'b' is wrong: engine_dns must be HOST:PORT"),
        ([pool("b", engine_dns="b:1"), pool("b", engine_dns="c:1")], "there are two of the base 'b'"),
        ("{bad", "OSTLER_POOLS must be a list in JSON"),
        ('{"base": "b"}', "^a setting is wrong: pools: "),
    ],
)
def test_a_wrong_pool_is_named(monkeypatch: pytest.MonkeyPatch, pools: Any, says: str) -> None:
    """In one line, before anything is started, with exit code 2."""
    monkeypatch.setenv("OSTLER_POOLS", pools if isinstance(pools, str) else json.dumps(pools))
    with pytest.raises(CommandFailed, match=says) as refused:
        run_gateway({})
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"limits_url": "http://h:1"}, "limits_url: must be redis://HOST:PORT"),
        ({"limits_url": "redis://user:se/cret@h:1"}, "limits_url: must be redis://HOST:PORT"),
        ({"engine_url": "http://"}, "engine_url: must be an address like http://HOST:PORT"),
        ({"engine_url": "http://user:se/cret@h:1"}, "engine_url: must be an address like http://HOST:PORT"),
        ({"base": "b", "base_model": "/no/such/folder"}, "there is no folder /no/such/folder of the base model b"),
        ({"base": "b", "base_model": "./models/b"}, "there is no folder ./models/b of the base model b"),
        ({}, "the base model's name is not set"),
    ],
)
def test_a_gateway_says_why_it_cannot_start(given: dict[str, str], says: str) -> None:
    """Before it listens, without what may be part of a password, with exit code 2."""
    with pytest.raises(CommandFailed) as refused:
        run_gateway(given)
    assert says in str(refused.value)
    assert refused.value.exit_code == 2
    assert "cret" not in str(refused.value)


@pytest.mark.parametrize("url", ["redis://h:1/2", "rediss://:secret@h", "unix:///run/redis.sock"])
def test_each_way_to_reach_redis_is_taken(url: str) -> None:
    """By TCP, with TLS, and by a socket of this machine."""
    assert read_settings(GatewaySettings, {"limits_url": url}).limits_url == url


def test_engines_behind_a_name_replace_the_default_list(own_folder: Path) -> None:
    """Without pools the default of `engine_url` does not stand against `engine_dns`."""
    settings = read_settings(GatewaySettings, {"base": "b", "engine_dns": "engines:8000"})
    assert settings.all_pools[0].engine_dns == "engines:8000"


def test_a_misspelled_variable_is_told(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the nearest name, and no more than told; those that other commands read are none."""
    for name in [name for name in os.environ if name.startswith("OSTLER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OSTLER_HOME", str(own_folder / "home"))
    for name in ("OSTLER_WORKRES", "OSTLER_URL", "OSTLER_API_KEY", "OSTLER_MAX_LORAS", "ostler_port"):
        monkeypatch.setenv(name, "1")
    run_migrate()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert lines == ["warning: there is no setting OSTLER_WORKRES; is it 'OSTLER_WORKERS'?"]


def test_load_balancers_get_time_to_see_a_stop() -> None:
    """Before a gateway refuses connections; what `ostler up` starts has none before it and stops at once."""
    assert read_settings(GatewaySettings, {}).drain_delay_s == 5.0
    up = read_settings(UpSettings, {})
    assert up.drain_delay_s == 0.0
    assert gateway_environment(up)["OSTLER_DRAIN_DELAY_S"] == "0.0"


def test_the_summary_names_everything_but_passwords() -> None:
    """Each base model with its engines, the kind of database, and where limits are counted."""
    pools = [pool("a", engine_url="http://x:1,http://me:secret@y:2"), pool("b", engine_dns="engines:8000")]
    given = {"pools": pools, "database_url": "postgresql://me:secret@h/db", "limits_url": "redis://:secret@h"}
    assert summary(read_settings(GatewaySettings, given)) == (
        "serving a on 2 engines (x:1, y:2); b on the engines of engines:8000; "
        "the registry is in PostgreSQL, limits are counted in Redis"
    )
    assert summary(read_settings(GatewaySettings, {"base": "c"})) == (
        "serving c on 1 engine (127.0.0.1:8090); the registry is in SQLite, limits are counted in memory"
    )


@pytest.mark.parametrize(("workers", "has"), [(1, False), (2, True)])
def test_lines_of_several_workers_say_whose_they_are(workers: int, has: bool) -> None:
    """By the process id, which a single process does not need."""
    code = (
        "import logging, sys; from gateway.settings import GatewaySettings; from ostler.serve import set_up_logging;"
        "set_up_logging(GatewaySettings(), workers=int(sys.argv[1])); logging.getLogger('gateway').info('hello')"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(workers)], stderr=subprocess.PIPE, text=True) as process:
        _, told = process.communicate()
    assert "hello" in told
    assert (f"[{process.pid}]" in told) == has


@pytest.mark.parametrize("run", [run_gateway, run_up])
def test_workers_need_a_place_where_limits_are_counted_together(
    own_folder: Path, run: Callable[[dict[str, Any]], int]
) -> None:
    """Or each would allow all of them; it is told before anything is started, with exit code 2."""
    with pytest.raises(CommandFailed, match="set OSTLER_LIMITS_URL") as refused:
        run({"home": own_folder / "home", "port": 0, "workers": 2})
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("given", "ports"),
    [
        ({"engine_port": 18290}, [18290]),
        ({"engine_port": 18290, "replicas": 3}, [18290, 18291, 18292]),
        ({"replicas": 3}, None),
    ],
)
def test_each_engine_has_a_port(given: dict[str, Any], ports: list[int] | None) -> None:
    """The following ones of a fixed one, else free ones, and the gateway's is none of them."""
    settings = _with_ports(read_settings(UpSettings, given | {"port": 0}))
    urls = settings.engine_url.split(",")
    found = [int(url.removeprefix("http://127.0.0.1:")) for url in urls]
    assert found == ports if ports else len(set(found)) == 3
    assert settings.port not in {0, *found}


@pytest.mark.parametrize("url", ["nix://bucket/x", "dropbox://bucket/x"])
def test_an_artifact_store_that_cannot_be_used_is_named(own_folder: Path, url: str) -> None:
    """With the package that is missing, where that is why."""
    settings = GatewaySettings(home=own_folder, base="tiny", artifacts_url=url)
    with pytest.raises(ValueError, match="OSTLER_ARTIFACTS_URL"):
        create_app(settings)


def test_the_parts_can_be_run_by_hand(own_folder: Path) -> None:
    """The README's sequence: the schema, and the first key, without a gateway and without naming a base model."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OSTLER_")}
    environment |= {"OSTLER_HOME": str(own_folder / "home")}
    for words in (["migrate"], ["keys", "create", "first", "--admin", "--local"]):
        command = [sys.executable, "-m", "ostler", *words]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("sk-")
