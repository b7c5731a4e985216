"""The gateway's picture of the registry: it follows changes by others, and survives what goes wrong meanwhile."""

import pytest

from tests.conftest import RunningGateway, until


async def test_changes_by_another_gateway_are_followed(gateway: RunningGateway) -> None:
    """Within a poll: here the other one is the registry itself, changed behind the gateway's back."""
    await gateway.push("support", 1.0)
    await gateway.push("support", 2.0)
    await gateway.promote("support", 1)
    await gateway.registry.promote("support", 2, actor="another gateway")
    directory = gateway.app.state.directory
    await until(lambda: directory.catalog.adapters["support"].deployment.stable == 2)
    response = await gateway.chat("support")
    assert response.json()["model"].startswith("support@2-")


async def test_what_is_deployed_is_told(gateway: RunningGateway) -> None:
    """As a metric, after the gateway's own changes and after those of others."""
    await gateway.push("support", 1.0)
    await gateway.push("support", 2.0)
    await gateway.promote("support", 1)
    metrics = gateway.app.state.metrics.registry

    def told(version: str, variant: str) -> float | None:
        labels = {"adapter": "support", "version": version, "variant": variant}
        found: float | None = metrics.get_sample_value("ostler_deployment_weight", labels)
        return found

    assert (told("1", "stable"), metrics.get_sample_value("ostler_deployment_revision", {"adapter": "support"})) == (
        1,
        1,
    )
    await gateway.registry.promote("support", 2, actor="another gateway")
    await until(lambda: told("2", "stable") == 1.0)
    assert told("1", "stable") is None


@pytest.mark.parametrize("failure", [OSError("away"), KeyError("a bug")])
async def test_following_goes_on_after_a_failure(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """Whatever it was: a follower that ended would leave the gateway with an old picture for ever."""
    await gateway.push("support", 1.0)
    failures = 0

    async def fails() -> int:
        nonlocal failures
        failures += 1
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr(gateway.app.state.directory._registry, "change_number", fails)
        await until(lambda: failures > 2)
    await gateway.registry.promote("support", 1, actor="another gateway")
    await until(lambda: gateway.app.state.directory.catalog.adapters["support"].deployment)
    assert (await gateway.chat("support")).status_code == 200


async def test_an_older_picture_never_replaces_a_newer_one(gateway: RunningGateway) -> None:
    """As when a slow read ends after a flip."""
    await gateway.push("support", 1.0)
    directory = gateway.app.state.directory
    old = directory.catalog
    await gateway.promote("support", 1)
    newest = directory.catalog

    async def slow() -> object:
        return old

    real, directory._registry.catalog = directory._registry.catalog, slow
    await directory.refresh()
    directory._registry.catalog = real
    assert directory.catalog is newest
