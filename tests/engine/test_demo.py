"""The demo as a newcomer meets it: what `ostler up` prints, what the versions answer, and what the gateway weighs."""

import re
import shlex
import stat
import subprocess

import psutil
import pytest

import demo
from demo.evaluate import field_accuracy
from demo.tickets import held_out
from tests.engine.conftest import Up

pytestmark = pytest.mark.engine


def answer(up: Up, model: str, **fields: object) -> str:
    """What a model answers to the example."""
    body = {"model": model, "messages": [{"role": "user", "content": demo.EXAMPLE_MESSAGE}], "temperature": 0, **fields}
    with up.http() as http:
        response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    content: str = response.json()["choices"][0]["message"]["content"]
    return content


def test_the_printed_curl_line_works_when_pasted(up: Up) -> None:
    """As it stands, in a shell."""
    (line,) = re.findall(r"^ *(curl .*chat/completions.*)$", up.output, re.MULTILINE)[:1]
    ran = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert '"model":"support@2-' in ran.stdout


def test_the_key_is_shown_once_and_kept_for_its_owner_alone(up: Up) -> None:
    """In a file of mode 600, which the output names; the database holds no key."""
    file = up.folder / "home" / "admin.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert up.key.startswith("sk-")
    assert up.output.count(up.key) == 1
    assert str(file) in up.output
    for part in (up.folder / "home").glob("ostler.db*"):
        assert up.key.encode() not in part.read_bytes()


def test_rolling_back_changes_the_answer(up: Up) -> None:
    """What a newcomer does first, with the command that is printed; promoting brings the better answer back."""
    live, earlier, base = answer(up, "support"), answer(up, "support@1"), answer(up, demo.BASE_NAME)
    assert len({live, earlier, base}) == 3
    printed = re.findall(r"^ *(\S*ostler rollback support)$", up.output, re.MULTILINE)
    assert printed
    assert up.cli(*shlex.split(printed[0])[1:]).returncode == 0
    assert answer(up, "support") == earlier
    assert up.cli("promote", "support", "2").returncode == 0
    assert answer(up, "support") == live


def test_the_adapter_is_right_and_the_base_is_not(up: Up, capsys: pytest.CaptureFixture[str]) -> None:
    """Field accuracy through vLLM on held-out tickets: at least 0.95 live, 0.1 to 0.6 base, the earlier one between."""
    tickets = held_out(200, seed=11)
    scores = {
        model: field_accuracy(up.url, model, tickets, api_key=up.key).fields
        for model in (demo.BASE_NAME, "support@1", "support@2")
    }
    with capsys.disabled():
        print("\nfield accuracy through vLLM: " + ", ".join(f"{name} {score:.3f}" for name, score in scores.items()))
    assert scores["support@2"] >= 0.95
    assert 0.1 <= scores[demo.BASE_NAME] <= 0.6
    assert scores[demo.BASE_NAME] < scores["support@1"] < scores["support@2"] - 0.05


def test_the_gateways_process_is_light(up: Up, capsys: pytest.CaptureFixture[str]) -> None:
    """It has loaded no heavy library, and its resident memory stays under 150 MB."""
    (gateway,) = up.running("ostler gateway")
    mapped = {entry.path for entry in gateway.memory_maps()}
    assert not [path for path in mapped if re.search(r"/(torch|vllm|evidently|pandas)/", path)]
    resident = gateway.memory_info().rss / 1e6
    with capsys.disabled():
        print(f"\nthe gateway's resident memory: {resident:.0f} MB")
    assert resident < 150


def test_the_engine_listens_on_loopback_alone(up: Up) -> None:
    """Nobody else reaches its management paths."""
    (engine,) = up.running("vllm.entrypoints.openai.api_server")
    addresses = {
        connection.laddr.ip for connection in engine.net_connections("tcp") if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


def test_a_second_up_on_the_same_state_says_so(up: Up) -> None:
    """In one line, with exit code 1, and without harm to the first."""
    ran = up.cli("up")
    assert ran.returncode == 1
    assert "another `ostler up` is using" in ran.stderr
    assert answer(up, "support")
