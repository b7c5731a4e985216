"""What pools' tokens cost, as flat settings and those of pools say."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.settings import GatewaySettings
from monitors.money.pricing import PricedPool, PricedSettings, Pricing
from monitors.settings import MonitorSettings
from ostler.client import CommandFailed
from ostler.serve import read_settings

_POOLS = [
    {"base": "listed", "engine_url": "http://a:1", "price_per_million_prompt_tokens": 3},
    {"base": "hourly", "engine_url": "http://b:1", "price_per_gpu_hour": 4, "gpus_per_replica": 8},
    {"base": "flat", "engine_url": "http://c:1", "completion_token_weight": 5},
    {"base": "free", "engine_url": "http://d:1", "price_per_gpu_hour": 0},
]


def test_tokens_are_paid_by_the_list() -> None:
    """Per million of each kind."""
    pricing = Pricing(price_per_million_prompt_tokens=2, price_per_million_completion_tokens=10)
    assert pricing.listed(500_000, 100_000) == pytest.approx(2.0)
    assert not pricing.is_by_gpu_hour


def test_engines_are_paid_by_the_hour() -> None:
    """Of each GPU; an answer's token weighs four times a prompt's unless the settings say otherwise."""
    pricing = Pricing(price_per_gpu_hour=3, gpus_per_replica=2)
    assert pricing.engines(5400) == pytest.approx(9.0)
    assert pricing.weighted(10, 5) == 30
    heavier = Pricing(price_per_gpu_hour=3, prompt_token_weight=2, completion_token_weight=10)
    assert heavier.weighted(10, 5) == 70


@pytest.mark.parametrize("kind", [GatewaySettings, MonitorSettings])
def test_the_gateway_and_the_monitor_read_the_same_prices(
    kind: type[GatewaySettings | MonitorSettings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A pool with a price of its own takes none of the flat ones; what it does not say of weights it takes from there.

    The monitor passes over what else is said of pools.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OSTLER_POOLS", json.dumps(_POOLS))
    monkeypatch.setenv("OSTLER_PRICE_PER_GPU_HOUR", "1.5")
    monkeypatch.setenv("OSTLER_PROMPT_TOKEN_WEIGHT", "2")
    settings = read_settings(kind, {})
    found = settings.pricings(["listed", "hourly", "flat", "free", "other"])
    assert {name: (one.is_by_gpu_hour, one.engines(3600), one.weighted(1, 1)) for name, one in found.items()} == {
        "listed": (False, 0.0, 6.0),
        "hourly": (True, 32.0, 6.0),
        "flat": (True, 1.5, 7.0),
        "free": (False, 0.0, 6.0),
        "other": (True, 1.5, 6.0),
    }
    assert found["listed"].listed(1_000_000, 1_000_000) == 3.0
    assert settings.any_by_gpu_hour


def test_a_worker_reads_the_prices_that_its_gateway_was_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a pool does not say is not said for it on the way through the environment."""
    from ostler.settings import gateway_environment

    monkeypatch.chdir(tmp_path)
    settings = GatewaySettings(pools=_POOLS, price_per_gpu_hour=1.5)
    for name, value in gateway_environment(settings).items():
        monkeypatch.setenv(name, value)
    names = ["listed", "hourly", "flat", "free"]
    assert GatewaySettings().pricings(names) == settings.pricings(names)


@pytest.mark.parametrize("kind", [GatewaySettings, MonitorSettings])
def test_two_ways_to_pay_for_one_pool_are_refused(
    kind: type[GatewaySettings | MonitorSettings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the flat settings as in a pool's, in words that say what to do."""
    monkeypatch.chdir(tmp_path)
    both = {"price_per_gpu_hour": 1, "price_per_million_completion_tokens": 1}
    with pytest.raises(CommandFailed, match=r"price_per_gpu_hour and price_per_million_.* set one of them"):
        read_settings(kind, both)
    with pytest.raises(CommandFailed, match=r"pools\.0: price_per_gpu_hour and .* set one of them"):
        read_settings(kind, {"pools": [{"base": "a", "engine_url": "http://a:1", **both}]})


@pytest.mark.parametrize(
    "wrong",
    [
        {"price_per_gpu_hour": -1},
        {"price_per_gpu_hour": "inf"},
        {"price_per_million_prompt_tokens": "nan"},
        {"gpus_per_replica": 0},
        {"prompt_token_weight": 0},
        {"completion_token_weight": -4},
    ],
)
def test_senseless_prices_are_refused(wrong: dict[str, object]) -> None:
    """Nothing that would make a cost negative or endless."""
    with pytest.raises(ValidationError):
        Pricing(**wrong)


def test_one_pool_by_the_hour_is_enough_to_look_at_replicas() -> None:
    """And without any the monitor does not."""
    assert PricedSettings(pools=(PricedPool(base="a", price_per_gpu_hour=1),)).any_by_gpu_hour
    assert not PricedSettings(price_per_million_prompt_tokens=1, pools=(PricedPool(base="a"),)).any_by_gpu_hour
