"""Which addresses nothing is sent to."""

import pytest

from monitors.webhooks.addresses import is_link_local


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.0.1",
        "2852039166",
        "0xa9fea9fe",
        "169.254.43518",
        "fe80::1",
        "fe80::1%eth0",
        "febf::1",
        "::ffff:169.254.169.254",
    ],
)
def test_link_local_addresses_are_known_however_they_are_written(host: str) -> None:
    """As resolvers take them."""
    assert is_link_local(host)


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "192.168.1.1", "127.0.0.1", "169.253.0.1", "fd00::1", "::1", "fec0::1", "example.com", ""]
)
def test_others_are_allowed(host: str) -> None:
    """Those of one's own network are where receivers are; names are looked up when something is sent."""
    assert not is_link_local(host)
