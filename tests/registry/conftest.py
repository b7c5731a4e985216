"""What tests of the registry share."""

import pytest

from registry.registry import Registry
from tests.conftest import AdapterMaker


@pytest.fixture
async def three(registry: Registry, adapter_folder: AdapterMaker) -> Registry:
    """A registry with the adapter `support` in three versions, none of them live."""
    for scale in (1.0, 2.0, 3.0):
        await registry.push("support", adapter_folder(scale), actor="ann")
    return registry
