"""What the gateway's tests share."""

import pytest

from tests.conftest import RunningGateway


@pytest.fixture
async def two(gateway: RunningGateway) -> RunningGateway:
    """A gateway with `support` in two versions, version 1 live."""
    await gateway.push("support", 1.0)
    await gateway.push("support", 2.0)
    assert (await gateway.promote("support", 1)).is_success
    return gateway
