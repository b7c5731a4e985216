"""The reading of NetworkPolicies itself, on the cases in which Kubernetes' rules surprise."""

import pytest

from tests.helm.chart import Json, Rendered
from tests.helm.network import Peer, may_reach

CLIENT = Peer("client", {"app": "client"})
SERVER = Peer("server", {"app": "server"}, ports={"http": 8080})
STRANGER = Peer("stranger", {"app": "client"}, namespace="other", namespace_labels={"team": "a"})
OUTSIDE = Peer("outside", address="203.0.113.7")


def policy(pods: Json, **spec: object) -> Rendered:
    """A render with one NetworkPolicy."""
    return Rendered(({"kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": {"podSelector": pods, **spec}},), {})


TO_SERVER = {"matchLabels": {"app": "server"}}
FROM_CLIENT = {"podSelector": {"matchLabels": {"app": "client"}}}


@pytest.mark.parametrize(
    ("chart", "source", "port", "expected"),
    [
        (policy({"matchLabels": {"app": "nobody"}}), OUTSIDE, 8080, True),
        (policy({}), CLIENT, 8080, False),
        (policy({}, policyTypes=["Egress"]), OUTSIDE, 8080, True),
        (policy({}, egress=[{}]), CLIENT, 8080, False),
        (policy(TO_SERVER, ingress=[{}]), OUTSIDE, 8080, True),
        (policy(TO_SERVER, ingress=[{"from": [FROM_CLIENT]}]), CLIENT, 8080, True),
        (policy(TO_SERVER, ingress=[{"from": [FROM_CLIENT]}]), STRANGER, 8080, False),
        (policy(TO_SERVER, ingress=[{"from": [{"namespaceSelector": {}}]}]), STRANGER, 8080, True),
        (policy(TO_SERVER, ingress=[{"from": [{"namespaceSelector": {}}]}]), OUTSIDE, 8080, False),
        (
            policy(TO_SERVER, ingress=[{"from": [{**FROM_CLIENT, "namespaceSelector": {"matchLabels": {"t": "b"}}}]}]),
            STRANGER,
            8080,
            False,
        ),
        (policy(TO_SERVER, ingress=[{"ports": [{"port": "http"}]}]), CLIENT, 8080, True),
        (policy(TO_SERVER, ingress=[{"ports": [{"port": "http"}]}]), CLIENT, 8000, False),
        (policy(TO_SERVER, ingress=[{"ports": [{"port": "metrics"}]}]), CLIENT, 8080, False),
        (policy(TO_SERVER, ingress=[{"ports": [{"port": 8080, "protocol": "UDP"}]}]), CLIENT, 8080, False),
        (policy(TO_SERVER, ingress=[{"ports": [{"port": 8000, "endPort": 8090}]}]), CLIENT, 8080, True),
        (policy(TO_SERVER, ingress=[{"from": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]}]), OUTSIDE, 8080, True),
        (
            policy(
                TO_SERVER, ingress=[{"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["203.0.113.0/24"]}}]}]
            ),
            OUTSIDE,
            8080,
            False,
        ),
        (policy(TO_SERVER, ingress=[{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]), CLIENT, 8080, False),
    ],
)  # fmt: skip
def test_policies_are_read_as_kubernetes_reads_them(chart: Rendered, source: Peer, port: int, expected: bool) -> None:
    """What one policy lets in, of pods of this namespace, of others and from outside."""
    assert may_reach(chart, source, SERVER, port) is expected


def test_whether_a_block_of_addresses_means_pods_is_left_open() -> None:
    """Network plugins differ, so both readings can be asked for."""
    chart = policy(TO_SERVER, ingress=[{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}])
    assert not may_reach(chart, CLIENT, SERVER, 8080)
    assert may_reach(chart, CLIENT, SERVER, 8080, generous=True)


def test_both_ends_must_agree() -> None:
    """What the server lets in, the client's own policy may still keep in."""
    server = policy(TO_SERVER, ingress=[{}]).objects
    client = policy({"matchLabels": {"app": "client"}}, policyTypes=["Egress"]).objects
    assert may_reach(Rendered(server, {}), CLIENT, SERVER, 8080)
    assert not may_reach(Rendered(server + client, {}), CLIENT, SERVER, 8080)
