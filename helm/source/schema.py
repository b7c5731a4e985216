"""The schema of the chart's values. Strict, so that a misspelt value is refused and not ignored."""

from gateway.settings import GatewaySettings
from helm.source import settings
from helm.source.shapes import (
    ADDRESS,
    EGRESS,
    ENVIRONMENT,
    FLAG,
    LABELS,
    NAME,
    NAME_OR_EMPTY,
    NAMES,
    PEERS,
    PORT,
    RESOURCES,
    SIZE,
    STRINGS,
    Schema,
    account,
    array,
    filled,
    image,
    obj,
    one_of,
    or_null,
    placement,
    secret,
    switched,
    text,
    whole,
)
from monitors.settings import MonitorSettings
from ostler.engine_command import ALLOWED_LORA_RANKS
from tuner.settings import TunerSettings

SHARE = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
REGISTRY = r"^$|^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)*$"
SERVICE_NAME = r"^$|^[a-z]([-a-z0-9]*[a-z0-9])?$"  # Services have a letter first, and no dots
SCHEMA_NUMBER = r"^$|^[0-9]{4}$"  # of the database
# A flag alone, a flag with its value, or a value: two words in one are one that vLLM does not know.
ARGUMENT = r"^(-\S+|--[A-Za-z0-9_.-]+=.*|[^-].*)$"
POOL_NAME = r"^[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?$"  # part of names that must stay short


def schema() -> Schema:
    """All of it."""
    values = {
        # A chart that holds this one may have globals of its own.
        "global": {
            "type": "object",
            "properties": {"imageRegistry": text(REGISTRY), "imagePullSecrets": NAMES},
        },
        "images": obj({"registry": text(REGISTRY)}),
        "nameOverride": text(SERVICE_NAME),
        "fullnameOverride": text(SERVICE_NAME),
        "commonLabels": LABELS,
        "imagePullPolicy": one_of("IfNotPresent", "Always", "Never"),
        "listenAddress": one_of("0.0.0.0", "::"),  # noqa: S104 - of a pod's own network
        "logLevel": one_of("debug", "info", "warning", "error"),
        **_state(),
        "gateway": _gateway(),
        "monitor": _monitor(),
        "engines": _engines(),
        "agent": _agent(),
        "tuner": _tuner(),
        "migrations": obj(
            {
                "enabled": FLAG,
                "to": text(SCHEMA_NUMBER),
                "backoffLimit": whole(),
                "deadlineSeconds": whole(1),
                "resources": RESOURCES,
            }
        ),
        "monitoring": _monitoring(),
        "networkPolicy": _network(),
        "embedded": _embedded(),
        "tests": obj({"enabled": FLAG, "chat": FLAG, "timeoutSeconds": whole(1), "resources": RESOURCES}),
    }
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of Ostler's chart", **obj(values)}


def _state() -> Schema:
    ids = {name: or_null(whole(1)) for name in ("runAsUser", "runAsGroup", "fsGroup")}
    shared = obj({"existingClaim": text(NAME_OR_EMPTY), "mountPath": text(r"^/.+")})
    artifacts = {
        "url": text(r"^$|^s3://[^/]+"),
        "endpointUrl": text("^$|" + ADDRESS),
        "region": text(),
        "existingSecret": text(NAME_OR_EMPTY),
        "accessKeyIdKey": filled(),
        "secretAccessKeyKey": filled(),
        "sharedVolume": shared,
    }
    return {
        "security": obj(ids, optional=tuple(ids)),
        "database": obj(secret()),
        "adminKey": obj({**secret(), "name": filled(maxLength=64)}),
        "metricsKey": obj({**secret(), "name": filled(maxLength=64)}),
        "artifacts": obj(artifacts),
        "limits": obj(secret()),
        "huggingFace": obj(secret()),
    }


def _gateway() -> Schema:
    autoscaling = {
        "enabled": FLAG,
        "minReplicas": whole(1),
        "maxReplicas": whole(1),
        "targetCPUPercent": whole(1, 100),
        "behavior": {"type": "object"},
    }
    service = {"type": one_of("ClusterIP", "NodePort", "LoadBalancer"), "port": PORT, "annotations": STRINGS}
    ingress = {
        "enabled": FLAG,
        "className": text(NAME_OR_EMPTY),
        "annotations": STRINGS,
        "host": text(NAME_OR_EMPTY),
        "tlsSecret": text(NAME_OR_EMPTY),
    }
    route = {
        "enabled": FLAG,
        "parentRefs": array({"type": "object", "required": ["name"]}),
        "hostnames": array(filled()),
        "timeouts": obj({"request": filled(), "backendRequest": filled()}, all_optional=True),
    }
    return obj(
        {
            "replicas": whole(1),
            "image": image(),
            "settings": settings.settings_of(GatewaySettings),
            "extraEnv": ENVIRONMENT,
            "drainDelaySeconds": whole(),
            "drainSeconds": whole(1),
            "workSize": SIZE,
            "resources": RESOURCES,
            "maxUnavailable": whole(1),
            **placement(),
            "serviceAccount": account(),
            "autoscaling": obj(autoscaling),
            "service": obj(service),
            "ingress": switched(ingress, {"host": {"minLength": 1}}),
            "httpRoute": switched(route, {"parentRefs": {"minItems": 1}}),
            "extraEgress": EGRESS,
        }
    )


def _monitor() -> Schema:
    return obj(
        {
            "enabled": FLAG,
            "replicas": whole(1),
            "image": image(),
            "settings": settings.settings_of(MonitorSettings),
            "extraEnv": ENVIRONMENT,
            "terminationGracePeriodSeconds": whole(30),
            "workSize": SIZE,
            "resources": RESOURCES,
            "maxUnavailable": whole(1),
            **placement(),
            "serviceAccount": account(),
            "extraEgress": EGRESS,
        }
    )


def _engines() -> Schema:
    own = {"name": text(POOL_NAME), "base": filled(), "model": filled()}
    pool = {**own, **_pool(all_optional=True)}
    # A pool says what is its own; all else is in the defaults.
    cpu_has_no_gpus = {
        "if": {"properties": {"device": {"const": "cpu"}}, "required": ["device"]},
        "then": {"properties": {"gpus": {"maximum": 0}}},
    }
    pools = array({**obj(pool, all_optional=True), "required": list(own), **cpu_has_no_gpus})
    nullable = ("maxModelLen", "gpuMemoryUtilization", "kvCacheGiB")
    defaults = obj(_pool(all_optional=False), optional=nullable)
    external = array({**settings.external_pool(), "required": ["base"]})
    own_pods = {"defaults": defaults, "serviceAccount": account(), "extraEgress": EGRESS}
    return obj({**own_pods, "pools": pools, "external": external})


def _pool(*, all_optional: bool) -> Schema:
    cache = {
        "type": one_of("emptyDir", "existingClaim", "claimPerReplica", "hostPath"),
        "existingClaim": text(NAME_OR_EMPTY),
        "hostPath": text(r"^$|^/.+"),
        "size": SIZE,
        "storageClass": text(NAME_OR_EMPTY),
        "keep": FLAG,
    }
    return {
        "device": one_of("gpu", "cpu"),
        "replicas": whole(1),
        "image": _partly(image(with_own_tag=True), all_optional=all_optional),
        "cpuImage": _partly(image(), all_optional=all_optional),
        "gpus": whole(),
        "gpuResource": text(r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$"),
        "modelConfig": text(r"^$|^\s*\{"),
        "slots": whole(1),
        "maxLoras": whole(1),
        "maxLoraRank": one_of(*ALLOWED_LORA_RANKS),
        "maxModelLen": or_null(whole(1)),
        "gpuMemoryUtilization": or_null(SHARE),
        "kvCacheGiB": or_null({"type": "number", "exclusiveMinimum": 0}),
        "extraArgs": array(text(ARGUMENT)),
        "extraEnv": ENVIRONMENT,
        "pricing": settings.pricing(),
        "runtimeClassName": text(NAME_OR_EMPTY),
        "shmSize": SIZE,
        "workSize": SIZE,
        "resources": RESOURCES,
        "modelCache": obj(cache, all_optional=all_optional),
        "startupSeconds": whole(30),
        "drainDelaySeconds": whole(1),
        "drainSeconds": whole(1),
        "maxSurge": whole(),
        "maxUnavailable": whole(),
        **placement(),
        "autoscaling": _engine_autoscaling(all_optional=all_optional),
    }


def _engine_autoscaling(*, all_optional: bool) -> Schema:
    keda = {
        "prometheusAddress": text(ADDRESS),
        "authenticationRef": text(NAME_OR_EMPTY),
        "pollingSeconds": whole(1),
    }
    hpa = {"waitingMetric": filled(), "runningMetric": filled()}
    scaling = {
        "type": one_of("none", "keda", "hpa"),
        "minReplicas": whole(1),
        "maxReplicas": whole(1),
        "waitingPerReplica": whole(1),
        "runningPerReplica": whole(1),
        "cooldownSeconds": whole(0, 3600),
        "keda": obj(keda, all_optional=all_optional),
        "hpa": obj(hpa, all_optional=all_optional),
    }
    return obj(scaling, all_optional=all_optional)


def _partly(shape: Schema, *, all_optional: bool) -> Schema:
    return {**shape, "required": []} if all_optional else shape


def _agent() -> Schema:
    cache = {"type": "number", "exclusiveMinimum": 0}
    return obj(
        {
            "enabled": FLAG,
            "image": image(),
            **secret(),
            "cacheGiB": cache,
            "extraEnv": ENVIRONMENT,
            "resources": RESOURCES,
        }
    )


def _tuner() -> Schema:
    cache = {
        "type": one_of("emptyDir", "existingClaim", "hostPath"),
        "existingClaim": text(NAME_OR_EMPTY),
        "hostPath": text(r"^$|^/.+"),
        "size": SIZE,
    }
    train_job = {"runtime": text(NAME), "nodes": whole(1)}
    where = {name: shape for name, shape in placement().items() if name in {"nodeSelector", "tolerations"}}
    dispatcher = {
        "resources": RESOURCES,
        **where,
        "priorityClassName": text(NAME_OR_EMPTY),
        "serviceAccount": account(),
    }
    kubernetes = {
        "kind": one_of("Job", "TrainJob"),
        "maxPods": whole(1),
        "deadlineSeconds": or_null(whole(1)),
        "ttlSeconds": whole(),
        "queueName": text(NAME_OR_EMPTY),
        "dispatcher": obj(dispatcher),
        "trainJob": obj(train_job),
    }
    return obj(
        {
            "enabled": FLAG,
            "backend": one_of("process", "kubernetes"),
            "pools": NAMES,
            "replicas": whole(1),
            "image": image(),
            "settings": settings.settings_of(TunerSettings),
            "extraEnv": ENVIRONMENT,
            "gpus": whole(),
            "gpuResource": text(r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$"),
            "resources": RESOURCES,
            "stopSeconds": whole(),
            "workSize": SIZE,
            "shmSize": SIZE,
            "modelCache": obj(cache),
            "runtimeClassName": text(NAME_OR_EMPTY),
            **placement(spread=False),
            "serviceAccount": account(),
            "extraEgress": EGRESS,
            "kubernetes": obj(kubernetes, optional=("deadlineSeconds",)),
        }
    )


def _monitoring() -> Schema:
    monitors = {"enabled": FLAG, "labels": LABELS, "interval": text(r"^[0-9]+(ms|s|m)$")}
    without = array(text("^Ostler[A-Za-z0-9]+$"), uniqueItems=True)
    rules = {"enabled": FLAG, "labels": LABELS, "without": without, "runbooks": filled()}
    dashboards = {"enabled": FLAG, "labels": LABELS, "annotations": STRINGS}
    return obj({"podMonitors": obj(monitors), "rules": obj(rules), "dashboards": obj(dashboards)})


def _network() -> Schema:
    server = obj({"to": PEERS, "port": PORT})
    store = obj({"to": PEERS, "port": or_null(PORT)}, optional=("port",))
    ports = array(PORT, minItems=1)
    return obj(
        {
            "enabled": FLAG,
            "gatewayFrom": PEERS,
            "prometheusFrom": PEERS,
            "dns": obj({"to": PEERS, "ports": ports}),
            "database": server,
            "limits": server,
            "objectStore": store,
            "modelHub": obj({"enabled": FLAG, "to": PEERS, "port": PORT}),
            "kubernetesApi": obj({"to": PEERS, "ports": ports}),
        }
    )


def _embedded() -> Schema:
    server = {"enabled": FLAG, "image": image(with_own_tag=True), "resources": RESOURCES}
    stored = {**server, "size": SIZE, "storageClass": text(NAME_OR_EMPTY)}
    return obj({"postgresql": obj(stored), "s3": obj(stored), "valkey": obj(server)})
