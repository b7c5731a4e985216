"""The chart's NetworkPolicies let through exactly what must pass: every pair of ends, on every port."""

from dataclasses import replace

import pytest

from tests.helm.chart import RELEASE, Rendered, Workload, objects_of, rendered, template, value_file
from tests.helm.network import Peer, lets_in, may_reach, pod_of

CLIENT = Peer("client", {"app": "shop"}, namespace="shop")
NEIGHBOUR = Peer("neighbour", {"app": "shop"})
PROMETHEUS = Peer("prometheus", {"app.kubernetes.io/name": "prometheus"}, namespace="observability")
INGRESS = Peer("ingress", {"app": "nginx"}, namespace="ingress-nginx")
NAME_SERVER = Peer("name server", {"k8s-app": "kube-dns"}, namespace="kube-system")
NODE_CACHE = Peer("name server of the node", address="169.254.20.10")
OPENSHIFT = Peer("name server of OpenShift", {"dns.operator.openshift.io/daemonset-dns": "default"}, "openshift-dns")
# Where a value set's cluster has its name servers.
NAME_SERVERS = {"openshift": ((OPENSHIFT, 5353),)}
USUAL = ((NAME_SERVER, 53), (NODE_CACHE, 53))
COLLECTOR = Peer("collector", {"app": "collector"}, namespace="observability")
INTERNET = Peer("internet", address="203.0.113.7")
STRANGERS = (CLIENT, NEIGHBOUR, PROMETHEUS, INGRESS, INTERNET)
# Where databases, object stores, hubs, API servers, name servers and web servers listen.
PORTS_OUTSIDE = (22, 53, 80, 443, 4318, 5432, 6379, 6443)
Passes = set[tuple[str, str, int]]


def component(pods: Workload) -> str:
    """As the tables below call it; the dispatcher is no tuner that trains."""
    return "dispatcher" if pods.spec.get("automountServiceAccountToken") else pods.component


def found(chart: Rendered, *, generous: bool) -> Passes:
    """Who reaches whom on which port: our pods on the ports that they have, what is outside on those above."""
    ours = [(component(pods), pod_of(pods)) for pods in chart.workloads]
    strangers = [(each.name, each) for each in STRANGERS]
    outside = [(each.name, each) for each in (NAME_SERVER, COLLECTOR, INTERNET)]
    tried = [(who, whom, port) for who in (*ours, *strangers) for whom in ours for port in whom[1].ports.values()]
    tried += [(who, whom, port) for who in ours for whom in outside for port in PORTS_OUTSIDE]
    return {
        (who[0], whom[0], port)
        for who, whom, port in tried
        if who[1] != whom[1] and may_reach(chart, who[1], whom[1], port, generous=generous)
    }


def table(text: str) -> Passes:
    """Lines of `SOURCE -> TARGET: PORTS`, where each end can be several."""
    passes = set()
    for line in text.strip().splitlines():
        ends, _, ports = line.partition(":")
        sources, _, targets = ends.partition("->")
        for source in sources.split(","):
            for target in targets.split(","):
                passes |= {(source.strip(), target.strip(), int(port)) for port in ports.split()}
    return passes


EXPECTED = {
    "everything": """
        client, neighbour, prometheus, ingress, internet -> gateway: 8080
        gateway -> engine: 8000 8083
        gateway -> valkey: 6379
        gateway -> collector: 4318
        monitor, tuning-job, test -> gateway: 8080
        prometheus -> engine: 8000 8083
        prometheus -> monitor: 8081
        prometheus -> dispatcher, tuning-job: 8082
        gateway, monitor, dispatcher, tuning-job, migrate -> internet, collector, name server: 5432
        gateway, monitor, dispatcher, tuning-job, engine -> internet, collector, name server: 443
        dispatcher -> internet, collector, name server: 6443
    """,
    "external": """
        ingress -> gateway: 8080
        gateway -> engine: 8000 8083
        monitor, tuner, test -> gateway: 8080
        gateway, monitor, tuner, engine -> internet, collector, name server: 443
    """,
    "smallest": """
        client, neighbour, prometheus, ingress, internet -> gateway: 8080
        gateway -> engine: 8000 8083
        monitor, test -> gateway: 8080
        gateway, monitor, migrate -> postgresql: 5432
        gateway, monitor, engine -> s3: 7070
        engine -> internet, collector, name server: 443
    """,
    "airgapped": """
        client, neighbour, prometheus, ingress, internet -> gateway: 8080
        gateway -> engine: 8000 8083
        monitor, test -> gateway: 8080
        gateway, monitor, migrate -> internet, collector, name server: 5432
        gateway -> internet, collector, name server: 6379
        gateway, monitor, engine -> internet, collector, name server: 443
    """,
    "openshift": """
        client, neighbour, prometheus, ingress, internet -> gateway: 8080
        gateway -> engine: 8000
        monitor, tuning-job, test -> gateway: 8080
        gateway -> valkey: 6379
        gateway, monitor, dispatcher, tuning-job, migrate -> postgresql: 5432
        dispatcher -> internet, collector, name server: 443 6443
    """,
}


@pytest.mark.parametrize("generous", [False, True], ids=["strictly", "generously"])
@pytest.mark.parametrize("value_set", EXPECTED)
def test_exactly_what_must_pass_passes(value_set: str, generous: bool) -> None:
    """However a network plugin reads blocks of addresses; name servers are asked by all."""
    chart = rendered(value_set)
    everyone = {component(pods) for pods in chart.workloads}
    expected = table(EXPECTED[value_set])
    if value_set not in NAME_SERVERS:
        expected |= {(who, NAME_SERVER.name, 53) for who in everyone}
    passes = found(chart, generous=generous)
    assert {*map(str, passes - expected)} == set(), "passes, but must not"
    assert {*map(str, expected - passes)} == set(), "must pass, but does not"


@pytest.mark.parametrize("value_set", EXPECTED)
def test_everybody_asks_name_servers_by_udp(value_set: str) -> None:
    """As most questions are asked."""
    chart = rendered(value_set)
    for source in map(pod_of, chart.workloads):
        for server, port in NAME_SERVERS.get(value_set, USUAL):
            for protocol in ("UDP", "TCP"):
                assert may_reach(chart, source, server, port, protocol=protocol), f"{source.name}: {server.name}"
            assert not may_reach(chart, source, server, 123, protocol="UDP", generous=True)


@pytest.mark.parametrize(
    ("address", "port"),
    [("", 443), ("https://s3.example.com", 443), ("http://minio.minio.svc:9000", 9000), ("http://s3.example.com", 80)],
)
def test_the_object_store_is_reached_on_the_port_of_its_address(address: str, port: int) -> None:
    """Whichever port the address names or leaves out; on no other."""
    ran = template("4", f"--values={value_file('train-job')}", f"--set=artifacts.endpointUrl={address}")
    assert ran.returncode == 0, ran.stderr
    chart = Rendered(objects_of(ran.stdout), {})
    (monitor,) = (pod_of(pods) for pods in chart.workloads if pods.component == "monitor")
    reached = {each for each in (80, 443, 9000) if may_reach(chart, monitor, INTERNET, each)}
    assert reached == {port}


def test_the_migration_brings_its_own_policy() -> None:
    """Its hook runs before the release's policies are there, where the namespace may deny everything."""
    hooks = [each for each in rendered("external").objects if "helm.sh/hook" in each["metadata"].get("annotations", {})]
    (policy,) = (each for each in hooks if each["kind"] == "NetworkPolicy")
    (job,) = (each for each in hooks if each["kind"] == "Job")
    only = Rendered((policy, job), {})
    (migration,) = map(pod_of, only.workloads)
    how, of_job = policy["metadata"]["annotations"], job["metadata"]["annotations"]

    assert may_reach(only, migration, NAME_SERVER, 53, protocol="UDP")
    assert may_reach(only, migration, replace(INTERNET, address="10.20.0.9"), 5432)
    assert how["helm.sh/hook"] == of_job["helm.sh/hook"]
    assert int(how["helm.sh/hook-weight"]) < int(of_job.get("helm.sh/hook-weight", 0))


@pytest.mark.parametrize("value_set", EXPECTED)
def test_engines_and_databases_do_not_rely_on_the_policies_of_others(value_set: str) -> None:
    """What they let in themselves is their clients, and Prometheus where the values name it."""
    clients = {"engine": {"gateway"}, "valkey": {"gateway"}}
    for target in rendered(value_set).workloads:
        for source in rendered(value_set).workloads:
            if target.component in clients and source.component not in clients[target.component]:
                ports = target.ports.values()
                assert not any(lets_in(rendered(value_set), pod_of(source), pod_of(target), port) for port in ports)


@pytest.mark.parametrize("port", [29500, 45678])
def test_the_machines_of_one_tuning_job_reach_each_other(port: int) -> None:
    """Which agree on any ports; an ordinary Job's pod reaches no other's."""
    several, one = (training_pod(value_set) for value_set in ("openshift", "everything"))
    assert may_reach(rendered("openshift"), several, replace(several, name="another"), port)
    assert not may_reach(rendered("everything"), one, replace(one, name="another"), port, generous=True)


def training_pod(value_set: str) -> Peer:
    """What a tuning job runs in."""
    (found,) = [pod_of(pods) for pods in rendered(value_set).workloads if pods.component == "tuning-job"]
    return found


def test_one_block_of_addresses_is_no_other() -> None:
    """The database of this value set lies in 10.20.0.0/24, and nowhere else."""
    chart = rendered("external")
    (gateway,) = (pod_of(pods) for pods in chart.workloads if pods.component == "gateway")
    assert may_reach(chart, gateway, replace(INTERNET, address="10.20.0.9"), 5432)
    assert not may_reach(chart, gateway, replace(INTERNET, address="10.20.1.9"), 5432, generous=True)


@pytest.mark.parametrize("value_set", EXPECTED)
def test_the_pods_of_another_release_are_strangers(value_set: str) -> None:
    """Though they have the same components in the same namespace."""
    chart = rendered(value_set)
    ours = [pod_of(pods) for pods in chart.workloads]
    for target in (each for each in ours if each.labels["app.kubernetes.io/component"] != "gateway"):
        for source in ours:
            other = replace(source, labels={**source.labels, "app.kubernetes.io/instance": f"{RELEASE}-2"})
            assert not any(may_reach(chart, other, target, port, generous=True) for port in target.ports.values())


def test_without_policies_everything_is_open() -> None:
    """Where the values say so."""
    assert rendered("nothing").of("NetworkPolicy") == []
