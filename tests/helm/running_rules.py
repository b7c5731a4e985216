"""What the objects of a render must hold about how pods run: security, ports, probes, resources, ends.

Each rule takes a render and yields what is wrong, one sentence each.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from tests.helm.chart import Json, Rendered, Workload
from tests.helm.naming_rules import label

# Of the restricted Pod Security Standard.
RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"
}  # fmt: skip
# Paths that the processes answer without a key.
HEALTH_PATHS = {"gateway": "/livez", "monitor": "/livez", "tuner": "/livez", "agent": "/livez", "engine": "/health"}
READY_PATHS = {**HEALTH_PATHS, "gateway": "/readyz", "monitor": "/readyz", "tuner": "/readyz", "agent": "/readyz"}
# What can be given a cloud's role by its service account.
HAVE_ACCOUNTS = {"gateway", "monitor", "engine", "tuner", "tuning-job"}
# vLLM loads tens of GB before it answers.
SHORTEST_ENGINE_START_S = 1800


def security(chart: Rendered) -> Iterator[str]:
    """Pods keep to the restricted Pod Security Standard, with a root file system that nobody writes to."""
    for pods in chart.workloads:
        spec = pods.spec
        yield from (f"{pods} has {field}" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field))
        for volume in spec.get("volumes", []):
            kinds = volume.keys() - {"name"}
            if kinds == {"hostPath"} and is_asked_for(chart, volume["hostPath"]["path"]):
                continue
            if not kinds <= RESTRICTED_VOLUMES:
                yield f"{pods}: the volume {volume['name']} is a {', '.join(kinds)}"
        for container in pods.containers:
            yield from (f"{pods}: {container['name']} {wrong}" for wrong in _insecure(spec, container))


def is_asked_for(chart: Rendered, path: str) -> bool:
    """Whether a host's folder stands in the values of a pool's model cache."""
    pools = chart.values["engines"]["pools"]
    return any(path in str(pool) for pool in pools)


def _insecure(pod: Json, container: Json) -> Iterator[str]:
    of_pod = pod.get("securityContext") or {}
    context = {**of_pod, **(container.get("securityContext") or {})}
    if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
        yield "may run as root"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "has no seccomp profile"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "keeps capabilities"
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        yield "may gain rights"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "may write to its image"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "takes a port of its node"


def writable(chart: Rendered) -> Iterator[str]:
    """Where a process of ours keeps its state and its temporary files there is a volume that can be written."""
    for pods in chart.workloads:
        for container in pods.containers:
            places = [each["mountPath"] for each in container.get("volumeMounts", []) if not each.get("readOnly")]
            for wanted in ["/tmp", *_state_folders(container)]:
                if not any(PurePosixPath(wanted).is_relative_to(place) for place in places):
                    yield f"{pods}: {container['name']} cannot write to {wanted}"


def _state_folders(container: Json) -> list[str]:
    names = {"HOME", "OSTLER_HOME", "OSTLER_CACHE", "OSTLER_AGENT_CACHE", "HF_HOME", "PGDATA"}
    names |= {"XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"}
    return [each["value"] for each in container.get("env", []) if each["name"] in names and "value" in each]


def tokens(chart: Rendered) -> Iterator[str]:
    """Nobody gets a token of the Kubernetes API but the dispatcher of tuning jobs; nobody is `default`."""
    bound = {subject["name"] for each in chart.of("RoleBinding") for subject in each["subjects"]}
    for each in chart.of("ServiceAccount"):
        if each.get("automountServiceAccountToken") is not False:
            yield f"{label(each)} gives its token to every pod"
    for pods in chart.workloads:
        if pods.spec.get("automountServiceAccountToken") is not (pods.spec.get("serviceAccountName") in bound):
            yield f"{pods}: automountServiceAccountToken is {pods.spec.get('automountServiceAccountToken')}"
        if pods.component in HAVE_ACCOUNTS and not pods.spec.get("serviceAccountName"):
            yield f"{pods} runs as the namespace's default service account"
    if chart.of("ClusterRole", "ClusterRoleBinding"):
        yield "there are rights over the whole cluster"


def resources(chart: Rendered) -> Iterator[str]:
    """Every container says what it needs, and how much memory at most; an extended resource is not overcommitted."""
    for pods in chart.workloads:
        for container in pods.containers:
            own = container.get("resources") or {}
            requests, limits = own.get("requests") or {}, own.get("limits") or {}
            if not {"cpu", "memory"} <= requests.keys() or "memory" not in limits:
                yield f"{pods}: {container['name']} has the resources {own}"
            for name in requests.keys() | limits.keys():
                if "/" in name and requests.get(name, limits.get(name)) != limits.get(name):
                    yield f"{pods}: {container['name']} must have as much {name} requested as allowed"


def images(chart: Rendered) -> Iterator[str]:
    """Images are of a fixed version; Ostler's own are of its registry, and those of others of the mirror, if any."""
    mirror = chart.values["global"]["imageRegistry"]
    for pods in chart.workloads:
        for container in pods.containers:
            image = container["image"]
            name, _, version = image.rpartition("@") if "@" in image else image.rpartition(":")
            if not name or "/" in version or version in {"", "latest"}:
                yield f"{pods}: {container['name']} runs {image}, which has no fixed version"
            registry = (chart.values["images"]["registry"] or mirror) if "ostler/" in image else mirror
            if registry and not image.startswith(f"{registry}/"):
                yield f"{pods}: {container['name']} runs {image}, which is not from {registry}"
            if not registry and "." in image.partition("/")[0] and "/" in image:
                yield f"{pods}: {container['name']} runs {image}, which names a registry"


def ports(chart: Rendered) -> Iterator[str]:
    """A pod's ports have names of their own, and Services lead to them."""
    for pods in chart.workloads:
        own = [port for each in pods.containers for port in each.get("ports", [])]
        for field in ("name", "containerPort"):
            for value, times in Counter(port[field] for port in own).items():
                if times > 1:
                    yield f"{pods} has {times} ports with the {field} {value}"
        yield from (f"{pods}: the port's name {port['name']} is too long" for port in own if len(port["name"]) > 15)
    for service in chart.of("Service"):
        for port in service["spec"]["ports"]:
            for pods in chart.selected(service["spec"]["selector"]):
                target = port.get("targetPort", port["port"])
                if target not in {*pods.ports, *pods.ports.values()}:
                    yield f"{label(service)} leads to the port {target} of {pods}, which has {pods.ports}"
                if service["spec"].get("clusterIP") == "None" and pods.ports.get(target, target) != port["port"]:
                    yield f"{label(service)} is headless, so its port must be {pods}'s own, {pods.ports.get(target)}"


def probes(chart: Rendered) -> Iterator[str]:
    """What stays up is probed: whether it lives and whether it is ready, on paths and ports that it has."""
    for pods in chart.workloads:
        for container in pods.containers:
            own = {
                kind: container[kind]
                for kind in ("startupProbe", "livenessProbe", "readinessProbe")
                if kind in container
            }
            whose = f"{pods}: {container['name']}"
            if container in pods.long_running:
                missing = {"livenessProbe", "readinessProbe"} - own.keys()
                yield from (f"{whose} has no {kind}" for kind in sorted(missing))
            elif own and container not in pods.spec["containers"]:
                yield f"{whose} ends before the others begin and is probed"
            there = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            for kind, probe in own.items():
                port = next((probe[how]["port"] for how in ("httpGet", "tcpSocket", "grpc") if how in probe), None)
                if port is not None and port not in {*there, *there.values()}:
                    yield f"{whose}: its {kind} asks the port {port}, it has {there}"


def health_paths(chart: Rendered) -> Iterator[str]:
    """Probes ask our processes what these answer: a liveness probe asks for nothing that others can break."""
    for pods in chart.workloads:
        for container in pods.long_running:
            process = container["name"]
            if process not in HEALTH_PATHS:
                continue
            for kind, expected in (
                ("startupProbe", {HEALTH_PATHS[process]}),
                ("livenessProbe", {HEALTH_PATHS[process]}),
                ("readinessProbe", {READY_PATHS[process]}),
            ):
                path = container.get(kind, {}).get("httpGet", {}).get("path", *expected)
                if path not in expected:
                    yield f"{pods}: the {kind} of {process} asks {path}, not {', '.join(expected)}"


def slow_starts(chart: Rendered) -> Iterator[str]:
    """An engine may take half an hour to load its model before anybody loses patience with it."""
    for pods in chart.workloads:
        for container in pods.long_running:
            if pods.component == "engine" and container["name"] == "engine":
                probe = container.get("startupProbe") or {"failureThreshold": 0}
                patience = probe["failureThreshold"] * probe.get("periodSeconds", 10)
                if patience < SHORTEST_ENGINE_START_S:
                    yield f"{pods}: an engine has {patience} s to start"


def disruptions(chart: Rendered) -> Iterator[str]:
    """A PodDisruptionBudget lets at least one pod go, so that a node can be drained."""
    for each in chart.of("PodDisruptionBudget"):
        spec = each["spec"]
        for pods in chart.selected(spec["selector"]["matchLabels"]):
            if "maxUnavailable" in spec:
                may_go = 1 if str(spec["maxUnavailable"]).endswith("%") else spec["maxUnavailable"]
            else:
                may_go = _fewest(chart, pods) - spec["minAvailable"]
            if may_go < 1 or spec["maxUnavailable" if "maxUnavailable" in spec else "minAvailable"] == "0%":
                yield f"{label(each)} lets no pod of {pods} go, which has {_fewest(chart, pods)}"


def _fewest(chart: Rendered, pods: Workload) -> int:
    for each in chart.of("HorizontalPodAutoscaler", "ScaledObject"):
        if each["spec"]["scaleTargetRef"]["name"] == pods.name:
            spec = each["spec"]
            fewest: int = spec.get("minReplicas", spec.get("minReplicaCount", 1))
            return fewest
    return pods.fewest


def environment(container: Json) -> dict[str, Any]:
    """A container's variables by name: a value, or where it comes from."""
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container.get("env", [])}
