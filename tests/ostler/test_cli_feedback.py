"""`ostler feedback` and `ostler costs`: as people and as programs read them."""

from pathlib import Path

import pytest

from gateway.settings import GatewaySettings
from tests.conftest import until
from tests.ostler.command import DONE, MISUSED, REFUSED, Cli


@pytest.fixture
def gateway_settings(gateway_settings: GatewaySettings) -> GatewaySettings:
    """Tokens that cost 1 and 2, and feedback that waits until its request is recorded."""
    prices = {"price_per_million_prompt_tokens": 1e6, "price_per_million_completion_tokens": 2e6}
    return gateway_settings.model_copy(update={"feedback_wait_s": 10.0, **prices})


async def test_feedback_is_given_and_listed(two: Cli, tmp_path: Path) -> None:
    """On a request or an answer, in options or with the right answer in a file; an own id makes it count once."""
    answer = await two.gateway.chat("support")
    request_id = answer.headers["x-request-id"]
    said = await two(
        "feedback", "add", "--request", request_id, "--thumb", "down", "--comment", "[bold]wrong", "--id", "1"
    )
    assert said.out.startswith("Kept as fb-")
    assert f"on request {request_id} of support, answered by version 1" in said.out
    assert (
        await two(
            "feedback", "add", "--request", request_id, "--thumb", "down", "--comment", "[bold]wrong", "--id", "1"
        )
    ).out == said.out
    file = tmp_path / "right.txt"
    file.write_text("The right answer, größer.")
    options = ("--completion", answer.json()["id"], "--score", "0.8", "--correction-file", str(file))
    kept = (await two("feedback", "add", *options, "--json")).json
    assert (kept["score"], kept["correction"]) == (0.8, "The right answer, größer.")
    listed = await two("feedback", "list", "--adapter", "support")
    for words in ("[bold]wrong", "right: The right answer, größer.", "down", "0.8", f"request {request_id}"):
        assert words in listed.out
    page = await two("feedback", "list", "--limit", "1")
    assert f"--before {kept['id']} goes on" in page.out
    (rest,) = (await two("feedback", "list", "--before", kept["id"], "--json")).json["data"]
    assert rest["thumb"] == "down"
    assert "Nothing was said yet" in (await two("feedback", "list", "--since", "2200-01-01")).out


async def test_feedback_that_makes_no_sense_is_refused(two: Cli, tmp_path: Path) -> None:
    """By the command where it can, else in the gateway's words."""
    (await two("feedback", "add", "--request", "r")).assert_failed(REFUSED, "at least one of thumb", "400")
    (await two("feedback", "add", "--thumb", "up")).assert_failed(REFUSED, "request_id or completion_id")
    both = ("--correction", "x", "--correction-file", str(tmp_path / "none"))
    (await two("feedback", "add", "--request", "r", *both)).assert_failed(MISUSED, "give one")
    (await two("feedback", "add", "--request", "r", *both[2:])).assert_failed(MISUSED, "cannot be read")
    (await two("feedback", "list", "--since", "soon")).assert_failed(MISUSED, "'soon' is no moment")
    assert (await two("feedback", "add", "--request", "r", "--score", "2")).code == MISUSED


async def test_costs_are_shown_by_what_is_asked(two: Cli) -> None:
    """Each request has 7 prompt and 3 completion tokens, at 1 and 2 each: 13."""
    assert "Nothing was used then" in (await two("costs")).out
    for model in ("support", "support", "support@2", "tiny"):
        assert (await two.gateway.chat(model)).status_code == 200

    async def all_recorded() -> bool:
        answer = await two.gateway.http.get("/admin/v1/costs")
        return bool(sum(one["requests"] for one in answer.json()["data"]) == 4)

    await until(all_recorded)
    found = (await two("costs", "--json")).json["data"]
    assert [(one["adapter"], one["cost"], one["per_thousand"]) for one in found] == [
        ("support", 39.0, 13_000.0),
        ("", 13.0, None),
    ]
    shown = await two("costs")
    assert shown.code == DONE
    for words in ("support", "39", "13000", "(the base model)", "PER 1,000", "BASE, 1,000"):
        assert words in shown.out
    by_version = (await two("costs", "--by", "version", "--per", "month", "--adapter", "support")).out
    assert "support 1" in by_version
    assert "support 2" in by_version
    by_pool = (await two("costs", "--by", "pool", "--since", "2020-01-01", "--until", "2100-01-01")).out
    assert "tiny" in by_pool
    assert "52" in by_pool
    (await two("costs", "--since", "2026-02-01", "--until", "2026-01-01")).assert_failed(
        REFUSED, "since must lie before"
    )
