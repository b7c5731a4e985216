"""Who may reach whom by the NetworkPolicies of a render, as Kubernetes reads them.

Whether a block of addresses means pods too is left to the network plugin: the strict reading says no, the generous one
yes. What must be allowed has to hold in the strict one, what must be denied in the generous one.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.helm.chart import NAMESPACE, Json, Rendered, Workload

POD_ADDRESS = "10.42.0.7"


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a pod of any namespace, or an address outside the cluster."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = NAMESPACE
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    address: str = ""

    @property
    def all_namespace_labels(self) -> dict[str, str]:
        """With the one that every cluster sets."""
        return {"kubernetes.io/metadata.name": self.namespace, **self.namespace_labels}


def pod_of(pods: Workload) -> Peer:
    """A pod of the release."""
    return Peer(pods.name, pods.labels, ports=pods.ports)


@dataclass(frozen=True)
class Connection:
    """What is tried: a port of a target, in one of the two readings."""

    source: Peer
    target: Peer
    port: int
    protocol: str
    generous: bool


def may_reach(
    chart: Rendered, source: Peer, target: Peer, port: int, *, protocol: str = "TCP", generous: bool = False
) -> bool:
    """Whether a connection is let out of its source and into its target."""
    tried = Connection(source, target, port, protocol, generous)
    return _passes(chart, tried, "Egress") and _passes(chart, tried, "Ingress")


def lets_in(chart: Rendered, source: Peer, target: Peer, port: int) -> bool:
    """Whether the target's own policies let a connection in, whatever the source's say; in the generous reading."""
    return _passes(chart, Connection(source, target, port, "TCP", generous=True), "Ingress")


def _passes(chart: Rendered, tried: Connection, direction: str) -> bool:
    """Whether the policies of the source let it out, or those of the target let it in."""
    own, other = (tried.source, tried.target) if direction == "Egress" else (tried.target, tried.source)
    if own.address or own.namespace != NAMESPACE:
        return True  # what is not of this namespace has no policy of ours
    binding = [
        spec for spec in chart.policies if direction in _types(spec) and _selects(spec["podSelector"], own.labels)
    ]
    if not binding:
        return True  # a pod that no policy speaks of is open
    peers, rules = ("to", "egress") if direction == "Egress" else ("from", "ingress")
    return any(
        _is_port(rule.get("ports"), tried) and _is_peer(rule.get(peers), other, tried.generous)
        for spec in binding
        for rule in spec.get(rules) or []
    )


def _types(spec: Json) -> list[str]:
    found: list[str] = spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]
    return found


def _is_port(ports: list[Json] | None, tried: Connection) -> bool:
    return not ports or any(_covers(each, tried) for each in ports)


def _covers(port: Json, tried: Connection) -> bool:
    """Whether one entry of a rule's ports has the port that is tried; a name is the target's own."""
    wanted = port.get("port", tried.port)
    first = tried.target.ports.get(wanted, 0) if isinstance(wanted, str) else int(wanted)
    last = int(port.get("endPort", first))
    return port.get("protocol", "TCP") == tried.protocol and first <= tried.port <= last


def _is_peer(peers: list[Json] | None, other: Peer, generous: bool) -> bool:
    return not peers or any(_matches(each, other, generous) for each in peers)


def _matches(peer: Json, other: Peer, generous: bool) -> bool:
    if "ipBlock" in peer:
        address = other.address or (POD_ADDRESS if generous else "")
        return bool(address) and _is_in(peer["ipBlock"], address)
    if other.address:
        return False
    if "namespaceSelector" in peer:
        if not _selects(peer["namespaceSelector"], other.all_namespace_labels):
            return False
    elif other.namespace != NAMESPACE:
        return False
    return _selects(peer.get("podSelector", {}), other.labels)


def _is_in(block: Json, address: str) -> bool:
    found = ipaddress.ip_address(address)
    inside = found in ipaddress.ip_network(block["cidr"])
    return inside and not any(found in ipaddress.ip_network(each) for each in block.get("except", []))


def _selects(selector: Json, labels: Mapping[str, str]) -> bool:
    if not (selector.get("matchLabels") or {}).items() <= labels.items():
        return False
    return all(_holds(each, labels) for each in selector.get("matchExpressions") or [])


def _holds(expression: Json, labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values", [])
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case _:
            return key not in labels
