"""Finding the engines, from lists and by real look-ups of names."""

import asyncio
import socket
from typing import Any

import pytest

from gateway.engines.discovery import listed, look_up
from gateway.settings import PoolSettings


def pool(base: str, url: str = "", dns: str = "") -> PoolSettings:
    """A pool's settings."""
    return PoolSettings(base=base, engine_url=url, engine_dns=dns)


def test_listed_engines_are_numbered_over_all_pools() -> None:
    """In the order of the settings, so that every gateway with the same settings calls them the same."""
    found = listed((pool("a", "http://one:1,http://two:2/"), pool("b", "https://three:3"), pool("c", " http://four:4")))
    assert found == {
        "a": {"engine-0": "http://one:1", "engine-1": "http://two:2"},
        "b": {"engine-2": "https://three:3"},
        "c": {"engine-3": "http://four:4"},
    }


def test_a_pool_that_is_looked_up_has_no_list() -> None:
    """Its `engine_url`, whose default is always set, does not count, and uses up no number."""
    found = listed((pool("a", "http://unused:1", "engines:8000"), pool("b", "http://one:1")))
    assert found == {"a": {}, "b": {"engine-0": "http://one:1"}}


async def test_every_address_of_a_name_is_an_engine() -> None:
    """Once each, under an id that is the same at each look, at the port that the settings say."""
    found = await look_up(pool("a", dns="localhost:8123"))
    assert found is not None
    addresses = {str(entry[4][0]) for entry in socket.getaddrinfo("localhost", 8123, type=socket.SOCK_STREAM)}
    urls = {f"http://[{address}]:8123" if ":" in address else f"http://{address}:8123" for address in addresses}
    assert set(found.values()) == urls
    assert len(found) == len(urls)
    assert await look_up(pool("a", dns="localhost:8123")) == found


@pytest.mark.parametrize("host", ["[::1]", "::1"])
async def test_addresses_of_ipv6_stand_in_brackets(host: str) -> None:
    """As URLs want them, whether the setting has the brackets or not."""
    assert await look_up(pool("a", dns=f"{host}:8123")) == {"[::1]:8123": "http://[::1]:8123"}


async def test_pools_on_one_machine_have_different_ids() -> None:
    """The same address at two ports is two engines."""
    first = await look_up(pool("a", dns="127.0.0.1:8001"))
    second = await look_up(pool("b", dns="127.0.0.1:8002"))
    assert first == {"127.0.0.1:8001": "http://127.0.0.1:8001"}
    assert second == {"127.0.0.1:8002": "http://127.0.0.1:8002"}


@pytest.mark.parametrize("host", ["no-such-engine.invalid", "a..b", "x" * 64 + ".invalid"])
async def test_a_name_that_cannot_be_resolved_is_no_empty_list(host: str, caplog: pytest.LogCaptureFixture) -> None:
    """None says that nothing is known, so that the engines of before are kept; the log tells of it."""
    assert await look_up(pool("a", dns=f"{host}:8000")) is None
    assert "the ones of before are kept" in caplog.text


async def test_addresses_come_sorted_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver gives them in any order, and again for each protocol."""
    addresses = ["10.0.0.9", "10.0.0.10", "10.0.0.9", "fd00::2"]

    async def resolved(*_: Any, **__: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    assert await look_up(pool("a", dns="engines:80")) == {
        "10.0.0.10:80": "http://10.0.0.10:80",
        "10.0.0.9:80": "http://10.0.0.9:80",
        "[fd00::2]:80": "http://[fd00::2]:80",
    }
