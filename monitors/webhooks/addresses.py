"""Where nothing is ever sent: link-local addresses, where clouds tell a machine its secrets, and nobody's receiver is.

A name may lead elsewhere each time it is looked up, so what counts is the machine at the other end of a connection.
Addresses inside a network are allowed: that is where receivers mostly are.
"""

import ipaddress
import socket
from typing import Any

_CONNECTED = "connection.connect_tcp.complete"


class LinkLocal(Exception):
    """A connection leads where nothing is to be sent; nothing was."""

    def __init__(self, host: str) -> None:
        super().__init__(f"the address leads to {host}, which is link-local: no receiver can be there")


def is_link_local(host: str) -> bool:
    """Whether it is a link-local address, however that is written; names are not looked up."""
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address is not None and address.is_link_local


async def check_peer(event: str, about: dict[str, Any]) -> None:
    """End a connection to a link-local address before anything is sent over it; as httpx's extension ``trace``.

    Raises:
        LinkLocal
    """
    if event != _CONNECTED:
        return
    stream = about["return_value"]
    host = str(stream.get_extra_info("server_addr")[0])
    if is_link_local(host):
        await stream.aclose()
        raise LinkLocal(host)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:  # what else resolvers take for an IPv4 address: 2852039166, 0xa9fea9fe, 169.254.43518
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None
