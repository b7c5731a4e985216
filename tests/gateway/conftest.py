"""What the gateway's tests share."""

import pytest

from tests.conftest import RunningGateway, with_two_versions


@pytest.fixture
async def two(gateway: RunningGateway) -> RunningGateway:
    """A gateway with `support` in two versions, version 1 live."""
    return await with_two_versions(gateway)
