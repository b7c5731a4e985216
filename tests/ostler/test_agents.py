"""`ostler agent`: what is wrong with its settings is one line."""

from pathlib import Path

import pytest

from agent.settings import AgentSettings
from ostler.agents import run_agent
from ostler.client import CommandFailed
from tests.ports import free_port


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of the machine, and no files in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OSTLER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OSTLER_AGENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OSTLER_AGENT_PORT", str(free_port()))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("OSTLER_AGENT_ENGINE_URL", "127.0.0.1:8000", "agent_engine_url: must be an address like http://HOST:PORT"),
        ("OSTLER_AGENT_CACHE_GIB", "0", "agent_cache_gib: Input should be greater than 0"),
        ("OSTLER_AGENT_PORT", "99999", "agent_port: Input should be less than or equal to 65535"),
        ("OSTLER_ARTIFACTS_URL", "nothing://x", "the artifact store in OSTLER_ARTIFACTS_URL cannot be used"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    """With what would be right."""
    monkeypatch.setenv(name, value)
    with pytest.raises(CommandFailed, match=says) as failed:
        run_agent({})
    assert failed.value.exit_code == 2


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "engine.local", ""])
def test_an_agent_that_others_reach_needs_a_token(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """One line before it listens; a token of blanks is none."""
    monkeypatch.setattr("ostler.agents.serve", lambda *_settings, **_more: 0)
    for token in ("", " "):
        monkeypatch.setenv("OSTLER_AGENT_TOKEN", token)
        with pytest.raises(
            CommandFailed, match=r"a setting is wrong: agent_token: must be set, .* OSTLER_AGENT_TOKEN"
        ) as no:
            run_agent({"agent_host": host})
        assert no.value.exit_code == 2
        assert "\n" not in str(no.value)
    monkeypatch.setenv("OSTLER_AGENT_TOKEN", "between us")
    assert AgentSettings(agent_host=host).agent_token == "between us"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.53", "::1", "localhost"])
def test_an_agent_on_loopback_needs_none(host: str) -> None:
    """As under `ostler gateway` on one machine."""
    assert AgentSettings(agent_host=host).agent_token == ""


def test_a_misspelled_variable_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the agent's own; a gateway's may stand beside them."""
    monkeypatch.setenv("OSTLER_AGENT_TOKN", "secret")
    monkeypatch.setenv("OSTLER_WORKERS", "2")
    monkeypatch.setenv("OSTLER_AGENT_PORT", "0")
    monkeypatch.setenv("OSTLER_ARTIFACTS_URL", "nothing://x")
    with pytest.raises(CommandFailed):
        run_agent({})
    assert capsys.readouterr().err == ("warning: there is no setting OSTLER_AGENT_TOKN; is it 'OSTLER_AGENT_TOKEN'?\n")


def test_settings_come_from_a_file_too_and_show_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags over environment over file."""
    (tmp_path / "ostler.toml").write_text('agent_cache_gib = 2.5\nagent_port = 1\nagent_token = "between us"\n')
    settings = AgentSettings(agent_host="::1")
    assert settings.cache_bytes == int(2.5 * 2**30)
    assert settings.agent_port != 1
    assert settings.agent_host == "::1"
    assert "between us" not in repr(settings)
