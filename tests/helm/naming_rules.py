"""What the objects of a render must hold about names, labels, selectors and references, which no schema can see.

Each rule takes a render and yields what is wrong, one sentence each.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from tests.helm.chart import NAMESPACE, Json, Rendered, Workload, scalars

# A StatefulSet's pods carry its name and a hash of ten in a label; a CronJob's Jobs get a suffix of eleven.
LONGEST = {"StatefulSet": 52, "CronJob": 52}
COMMON_LABELS = (
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/version",
    "app.kubernetes.io/managed-by",
    "helm.sh/chart",
)
# They change with the chart's version: on pods each upgrade would replace these, though nothing of theirs changed.
UNSTABLE_LABELS = {"app.kubernetes.io/version", "helm.sh/chart"}


def label(each: Json) -> str:
    """An object as messages call it."""
    return f"{each['kind']}/{each['metadata'].get('name')}"


def names(chart: Rendered) -> Iterator[str]:
    """Names are unique for each kind, no longer than a label, and of the letters that DNS takes."""
    for name, times in Counter(map(label, chart.objects)).items():
        if times > 1:
            yield f"{name} is there {times} times"
    for each in chart.objects:
        name = each["metadata"]["name"]
        if len(name) > LONGEST.get(each["kind"], 63):
            yield f"{label(each)} has {len(name)} letters, {LONGEST.get(each['kind'], 63)} are allowed"
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name):
            yield f"{label(each)} is no DNS label"
        if each["metadata"].get("namespace", NAMESPACE) != NAMESPACE:
            yield f"{label(each)} is outside the release's namespace"


def labels(chart: Rendered) -> Iterator[str]:
    """Every object and every pod says whose it is; a label's value is short enough."""
    for each in chart.objects:
        own = each["metadata"].get("labels") or {}
        yield from (f"{label(each)} lacks the label {name}" for name in COMMON_LABELS if name not in own)
        yield from _label_values(label(each), own)
    for pods in chart.workloads:
        for name in (*COMMON_LABELS[:2], "app.kubernetes.io/component"):
            if name not in pods.labels:
                yield f"the pods of {pods} lack the label {name}"
        yield from _label_values(f"the pods of {pods}", pods.labels)


def _label_values(whose: str, own: Mapping[str, Any]) -> Iterator[str]:
    for name, value in own.items():
        if not isinstance(value, str) or not re.fullmatch(r"|[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", value):
            yield f"{whose}: the label {name} has the wrong value {value!r}"


def controllers(chart: Rendered) -> Iterator[str]:
    """A controller selects its own pods and nobody else's; an upgrade that changes nothing of theirs leaves them."""
    for pods in chart.workloads:
        if pods.kind not in {"Deployment", "StatefulSet"}:
            continue
        selector = pods.owner["spec"]["selector"]["matchLabels"]
        if chart.selected(selector) != [pods]:
            yield f"{pods} selects {_listed(chart.selected(selector))}"
        if unstable := UNSTABLE_LABELS & pods.labels.keys():
            yield f"{pods}: its pods have {', '.join(sorted(unstable))}, so that each upgrade would replace them"


def services(chart: Rendered) -> Iterator[str]:
    """A Service, and a PodDisruptionBudget, is for the pods of one workload that stays up."""
    for each in chart.of("Service", "PodDisruptionBudget"):
        selector = each["spec"]["selector"]
        found = chart.selected(selector.get("matchLabels", selector))
        if len(found) != 1 or not found[0].long_running:
            yield f"{label(each)} selects {_listed(found)}"
    for pods in chart.workloads:
        if pods.kind == "StatefulSet" and not chart.named("Service", pods.owner["spec"]["serviceName"]):
            yield f"{pods}: there is no Service {pods.owner['spec']['serviceName']}"


def spread(chart: Rendered) -> Iterator[str]:
    """Pods that keep away from each other mean their own kind."""
    for pods in chart.workloads:
        for selector in _spread_selectors(pods):
            if chart.selected(selector) != [pods]:
                yield f"{pods} is spread against {_listed(chart.selected(selector))}"
            if pods.kind not in {"Deployment", "StatefulSet"}:
                yield f"{pods} is spread, and is one pod"


def _spread_selectors(pods: Workload) -> Iterator[Mapping[str, str]]:
    for constraint in pods.spec.get("topologySpreadConstraints", []):
        yield constraint["labelSelector"]["matchLabels"]
    away = (pods.spec.get("affinity") or {}).get("podAntiAffinity") or {}
    for term in away.get("requiredDuringSchedulingIgnoredDuringExecution", []):
        yield term["labelSelector"]["matchLabels"]
    for term in away.get("preferredDuringSchedulingIgnoredDuringExecution", []):
        yield term["podAffinityTerm"]["labelSelector"]["matchLabels"]


def autoscalers(chart: Rendered) -> Iterator[str]:
    """An autoscaler's target exists, has no replicas of its own, and belongs to one autoscaler."""
    targets = []
    for each in chart.of("HorizontalPodAutoscaler", "ScaledObject"):
        target = each["spec"]["scaleTargetRef"]
        found = chart.named(target.get("kind", "Deployment"), target["name"])
        targets.append(target["name"])
        if found is None:
            yield f"{label(each)} scales {target.get('kind')}/{target['name']}, which is not there"
        elif "replicas" in found["spec"]:
            yield f"{label(found)} has replicas, which each upgrade would set against {label(each)}"
    yield from (f"{name} has {times} autoscalers" for name, times in Counter(targets).items() if times > 1)


def scrapes(chart: Rendered) -> Iterator[str]:
    """What Prometheus is told to scrape is there, with a port of that name."""
    for each in chart.of("ServiceMonitor"):
        selector = each["spec"]["selector"]["matchLabels"]
        found = [one for one in chart.of("Service") if selector.items() <= one["metadata"]["labels"].items()]
        ports = [{port["name"] for port in one["spec"]["ports"]} for one in found]
        yield from _endpoints(label(each), each["spec"]["endpoints"], ports)
    for each in chart.of("PodMonitor"):
        pods = chart.selected(each["spec"]["selector"]["matchLabels"])
        yield from _endpoints(label(each), each["spec"]["podMetricsEndpoints"], [set(one.ports) for one in pods])


def _endpoints(name: str, endpoints: list[Json], ports: list[set[str]]) -> Iterator[str]:
    if not ports:
        yield f"{name} selects nothing"
    for endpoint, there in itertools.product(endpoints, ports):
        if endpoint["port"] not in there:
            yield f"{name} wants the port {endpoint['port']}, there is {', '.join(sorted(there))}"


def policies(chart: Rendered) -> Iterator[str]:
    """Each selector of a NetworkPolicy for pods of this release selects some."""
    for each in chart.of("NetworkPolicy"):
        spec = each["spec"]
        selectors = [spec["podSelector"]]
        for rule in (*spec.get("ingress", []), *spec.get("egress", [])):
            peers = [*rule.get("from", []), *rule.get("to", [])]
            selectors += [
                peer["podSelector"] for peer in peers if "namespaceSelector" not in peer and "podSelector" in peer
            ]
        for selector in selectors:
            if not chart.selected(selector.get("matchLabels", {})):
                yield f"{label(each)} speaks of {json.dumps(selector)}, which is nobody"


def routes(chart: Rendered) -> Iterator[str]:
    """An Ingress and an HTTPRoute lead to a Service and a port of it that are there."""
    for each in chart.of("Ingress"):
        for rule in each["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                service = path["backend"]["service"]
                yield from _backend(chart, label(each), service["name"], service["port"])
    for each in chart.of("HTTPRoute"):
        for rule in each["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                yield from _backend(chart, label(each), backend["name"], {"number": backend["port"]})


def _backend(chart: Rendered, whose: str, name: str, port: Json) -> Iterator[str]:
    service = chart.named("Service", name)
    ports = service["spec"]["ports"] if service else []
    if not any(port in ({"name": each["name"]}, {"number": each["port"]}) for each in ports):
        yield f"{whose} leads to {name}, port {port}, which is not there"


def addresses(chart: Rendered) -> Iterator[str]:
    """An address of a Service of this release, wherever it stands, is one that is there, with that port."""
    prefix = min((each["metadata"]["name"] for each in chart.of("Service")), key=len).removesuffix("-gateway")
    ports = {each["metadata"]["name"]: {port["port"] for port in each["spec"]["ports"]} for each in chart.of("Service")}
    pattern = re.compile(rf"(?:@|//|\")({re.escape(prefix)}-[a-z0-9-]+)(?:\.{NAMESPACE}\.svc)?(?::(\d+))?")
    for each in (one for one in chart.objects if one["kind"] != "ScaledObject"):  # whose queries name pods
        for name, port in pattern.findall("\n".join(str(value) for _, value in scalars(each))):
            if name not in ports or (port and int(port) not in ports[name]):
                yield f"{label(each)} speaks of {name}:{port}; there is {ports.get(name, 'no such Service')}"


def references(chart: Rendered) -> Iterator[str]:
    """Each ConfigMap, Secret, claim and service account that a pod names is in the render or in the values."""
    declared = {value for _, value in scalars(chart.values) if isinstance(value, str) and value}
    for pods in chart.workloads:
        for kind, name, key in _referenced(pods):
            found = chart.named(kind, name)
            if found is None and name not in declared:
                yield f"{pods} names {kind}/{name}, which is neither made nor declared in the values"
            if found and key and key not in _keys(found):
                yield f"{pods} wants the key {key} of {label(found)}, which has {', '.join(_keys(found))}"


def hooks(chart: Rendered) -> Iterator[str]:
    """What runs before anything is installed needs nothing that is only installed then."""
    for pods in chart.workloads:
        if "pre-install" in _hook(pods.owner):
            for kind, name, _ in _referenced(pods):
                found = chart.named(kind, name)
                if found and not _hook(found):
                    yield f"{pods} runs before {label(found)} is there"


def _hook(each: Json) -> str:
    return str((each["metadata"].get("annotations") or {}).get("helm.sh/hook", ""))


def _keys(holder: Json) -> list[str]:
    return [*(holder.get("data") or {}), *(holder.get("stringData") or {})]


def _referenced(pods: Workload) -> Iterator[tuple[str, str, str]]:
    spec = pods.spec
    if "serviceAccountName" in spec and spec["serviceAccountName"] != "default":
        yield "ServiceAccount", spec["serviceAccountName"], ""
    for secret in spec.get("imagePullSecrets", []):
        yield "Secret", secret["name"], ""
    for volume in spec.get("volumes", []):
        yield from _of_volume(volume)
        for source in volume.get("projected", {}).get("sources", []):
            yield from _of_volume(source)
    for container in pods.containers:
        for source in container.get("envFrom", []):
            kind = "ConfigMap" if "configMapRef" in source else "Secret"
            yield kind, (source.get("configMapRef") or source["secretRef"])["name"], ""
        for variable in container.get("env", []):
            for kind, field in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
                if reference := variable.get("valueFrom", {}).get(field):
                    yield kind, reference["name"], reference["key"]


def _of_volume(volume: Json) -> Iterator[tuple[str, str, str]]:
    for kind, field in (
        ("ConfigMap", "configMap"),
        ("Secret", "secret"),
        ("PersistentVolumeClaim", "persistentVolumeClaim"),
    ):
        if source := volume.get(field):
            name = source.get("secretName") or source.get("claimName") or source["name"]
            yield from ((kind, name, key) for key in [item["key"] for item in source.get("items", [])] or [""])


def mounts(chart: Rendered) -> Iterator[str]:
    """A container mounts volumes that its pod has, each in a place of its own; no volume is there for nobody."""
    for pods in chart.workloads:
        there = [each["name"] for each in pods.spec.get("volumes", [])]
        claimed = pods.owner["spec"].get("volumeClaimTemplates", []) if pods.kind == "StatefulSet" else []
        there += [each["metadata"]["name"] for each in claimed]
        used = [mount["name"] for each in pods.containers for mount in each.get("volumeMounts", [])]
        if set(there) != set(used) or len(there) != len(set(there)):
            yield f"{pods} has the volumes {sorted(there)} and mounts {sorted(set(used))}"
        for container in pods.containers:
            places = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            if len(places) != len(set(places)):
                yield f"{pods}: {container['name']} mounts two volumes in one place"


def checksums(chart: Rendered) -> Iterator[str]:
    """Pods that stay up are replaced when a ConfigMap of theirs changes."""
    for pods in chart.workloads:
        made = {name for kind, name, _ in _referenced(pods) if kind == "ConfigMap" and chart.named(kind, name)}
        marks = [name for name in pods.template["metadata"].get("annotations") or {} if name.startswith("checksum/")]
        if made and pods.long_running and not marks:
            yield f"{pods} reads {', '.join(sorted(made))} and has no checksum of it"


def _listed(found: list[Workload]) -> str:
    return ", ".join(map(str, found)) or "nobody"
