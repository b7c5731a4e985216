"""What the tests of the command share."""

from pathlib import Path

import pytest

from tests.conftest import RunningGateway
from tests.ostler.command import Cli


@pytest.fixture
def cli(gateway: RunningGateway, tmp_path: Path) -> Cli:
    """The command, and a gateway without adapters."""
    return Cli(gateway, tmp_path)


@pytest.fixture
async def two(cli: Cli) -> Cli:
    """The command, and a gateway whose `support` has two versions, version 1 live."""
    await cli.gateway.push("support", 1.0)
    await cli.gateway.push("support", 2.0)
    assert (await cli.gateway.promote("support", 1)).is_success
    return cli
