"""What the tests of the command share."""

from pathlib import Path

import pytest

from tests.conftest import RunningGateway, with_two_versions
from tests.ostler.command import Cli
from tests.ostler.in_process import QuickCli


@pytest.fixture
def cli(gateway: RunningGateway, tmp_path: Path) -> Cli:
    """The command, and a gateway without adapters."""
    return QuickCli(gateway, tmp_path)


@pytest.fixture
async def two(cli: Cli) -> Cli:
    """The command, and a gateway whose `support` has two versions, version 1 live."""
    await with_two_versions(cli.gateway)
    return cli
