"""The chart's values: each explained, each in the schema, each of use, and wrong ones refused by name."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml  # type: ignore[import-untyped]

from tests.helm.chart import CHART, HELMS, Json, merged, template, value_file
from tests.helm.chart import values as own_values

SCHEMA: Json = json.loads((CHART / "values.schema.json").read_text())
# Shapes of Kubernetes and of others that go into objects as they are, and what charts share.
OPEN = (
    *("global", "valueFrom", "nodeAffinity", "podAffinity", "podAntiAffinity", "behavior", "parentRefs[]"),
    *("ipBlock", "podSelector", "namespaceSelector", "ports[]", "trainJob.spec"),
)
# Maps whose names are not the chart's, so that one comment explains them.
FREE = (".labels", ".resources", "Resources")
VALUES_FILE = CHART / "values.yaml"


@functools.cache
def validator() -> jsonschema.Draft7Validator:
    """The schema, in Python."""
    return jsonschema.Draft7Validator(SCHEMA)


def objects_in(schema: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Every part of the schema that is about a map, with its path."""
    if "properties" in schema or schema.get("type") == "object":
        yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from objects_in(part, f"{path}.{name}".lstrip("."))
    for keyword, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(schema.get(keyword), dict):
            yield from objects_in(schema[keyword], path + mark)


def test_the_schema_leaves_no_map_open() -> None:
    """A map has names that are listed, or values of a stated type: a mistyped name is refused everywhere."""
    for path, schema in objects_in(SCHEMA):
        closed = schema.get("additionalProperties")
        is_open = path.endswith(OPEN)
        assert closed is False or isinstance(closed, dict) or is_open, f"{path or 'the top'} takes any name"


def leaves(node: yaml.Node, path: str = "") -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """Every key of a YAML mapping with its path, itself and its value, maps within maps too."""
    for key, value in node.value:
        own = f"{path}.{key.value}".lstrip(".")
        yield own, key, value
        if isinstance(value, yaml.MappingNode):
            yield from leaves(value, own)


@functools.cache
def written() -> tuple[tuple[str, yaml.Node, yaml.Node], ...]:
    """What stands in values.yaml."""
    return tuple(leaves(yaml.compose(VALUES_FILE.read_text())))


def test_every_value_is_explained() -> None:
    """By a comment in the line right above; one for a whole map where its names are Kubernetes' own."""
    lines = VALUES_FILE.read_text().splitlines()
    explained = {path for path, key, _ in written() if lines[key.start_mark.line - 1].lstrip().startswith("#")}
    silent = [
        path
        for path, _, value in written()
        if not (isinstance(value, yaml.MappingNode) and value.value)
        and path not in explained
        and not any(path.startswith(f"{above}.") for above in explained if above.endswith(FREE))
    ]
    assert not silent, f"no comment: {', '.join(silent)}"


def test_every_value_is_in_the_schema() -> None:
    """By name: not only by what a map takes beside."""
    missing = [path for path, _, _ in written() if schema_of(path) is None]
    assert not missing, f"not in the schema: {', '.join(missing)}"


def schema_of(path: str) -> Json | None:
    """What the schema says of a value; None if it has no word of it."""
    schema = SCHEMA
    for name in path.split("."):
        part = schema.get("properties", {}).get(name)
        if part is None:
            free = schema.get("additionalProperties")
            return free if isinstance(free, dict) else None
        schema = part
    return schema


# Wrong values, and what a line of helm's message must name: the value's path, and what else tells which one it is.
# Helm says all at once, so these are tried all at once; each is about another value.
SHAPES = [
    ("gatway: {}", "gatway"),
    ("gateway: {replica: 2}", "gateway replica"),
    ("gateway: {replicas: two}", "gateway.replicas"),
    ("gateway: {image: {tag: 17}}", "gateway.image.tag"),
    ("gateway: {image: {digest: 'sha1:abc'}}", "gateway.image.digest"),
    ("gateway: {service: {type: Loadbalancer}}", "gateway.service.type"),
    ("gateway: {service: {port: 99999}}", "gateway.service.port"),
    ("gateway: {settings: {max_in_fligth: 5}}", "gateway.settings max_in_fligth"),
    ("gateway: {settings: {port: 80}}", "gateway.settings port"),
    ("gateway: {settings: {max_in_flight: 0}}", "gateway.settings.max_in_flight"),
    ("gateway: {drainSeconds: 2m}", "gateway.drainSeconds"),
    ("gateway: {drainDelaySeconds: -1}", "gateway.drainDelaySeconds"),
    ("gateway: {workSize: 10 GB}", "gateway.workSize"),
    ("engines: {defaults: {workSize: much}}", "engines.defaults.workSize"),
    ("monitoring: {rules: {without: [all]}}", "monitoring.rules.without"),
    ("gateway: {maxUnavailable: 0}", "gateway.maxUnavailable"),
    ("gateway: {resources: {limit: {memory: 1Gi}}}", "gateway.resources limit"),
    ("gateway: {resources: {limits: {memory: lots}}}", "gateway.resources.limits.memory"),
    ("gateway: {extraEnv: [{value: x}]}", "gateway.extraEnv name"),
    ("gateway: {tolerations: [{effect: Maybe}]}", "gateway.tolerations effect"),
    ("gateway: {topologySpread: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: No}]}", "gateway.topologySpread"),
    ("gateway: {podLabels: {app.kubernetes.io/component: engine}}", "app.kubernetes.io/component"),
    ("gateway: {autoscaling: {targetCPUPercent: 170}}", "gateway.autoscaling.targetCPUPercent"),
    ("gateway: {ingress: {enabled: true}}", "gateway.ingress.host"),
    ("gateway: {httpRoute: {enabled: true}}", "gateway.httpRoute.parentRefs"),
    ("monitor: {enabled: 'yes'}", "monitor.enabled"),
    ("monitor: {settings: {request_log_days: forever}}", "monitor.settings.request_log_days"),
    ("engines: {defaults: {device: tpu}}", "engines.defaults.device"),
    ("engines: {defaults: {maxLoraRank: 17}}", "engines.defaults.maxLoraRank"),
    ("engines: {defaults: {gpuMemoryUtilization: 1.5}}", "engines.defaults.gpuMemoryUtilization"),
    ("engines: {defaults: {modelCache: {type: pvc}}}", "engines.defaults.modelCache.type"),
    ("engines: {defaults: {autoscaling: {type: yes}}}", "engines.defaults.autoscaling.type"),
    (
        "engines: {defaults: {autoscaling: {keda: {prometheusAddress: prometheus:9090}}}}",
        "engines.defaults.autoscaling.keda.prometheusAddress",
    ),
    ("agent: {cacheGiB: 0}", "agent.cacheGiB"),
    ("tuner: {backend: k8s}", "tuner.backend"),
    ("tuner: {kubernetes: {kind: Pod}}", "tuner.kubernetes.kind"),
    ("tuner: {kubernetes: {deadlineSeconds: 1h}}", "tuner.kubernetes.deadlineSeconds"),
    ("tuner: {settings: {tuner_device: tpu}}", "tuner.settings.tuner_device"),
    ("database: {password: secret}", "database password"),
    ("embedded: {postgresql: {password: secret}}", "embedded.postgresql password"),
    ("artifacts: {url: gs://bucket/prefix}", "artifacts.url"),
    ("artifacts: {sharedVolume: {mountPath: data}}", "artifacts.sharedVolume.mountPath"),
    ("limits: {existingSecret: Mine}", "limits.existingSecret"),
    ("networkPolicy: {dns: {ports: ['53']}}", "networkPolicy.dns.ports"),
    ("networkPolicy: {objectStore: {port: https}}", "networkPolicy.objectStore.port"),
    ("images: {registry: 'https://registry.example.com'}", "images.registry"),
    ("fullnameOverride: a.b", "fullnameOverride"),
    ("nameOverride: 1st", "nameOverride"),
    ("monitor: {image: {repository: 'registry.example.com:/monitor'}}", "monitor.image.repository"),
    ("engines: {defaults: {extraArgs: ['--max-loras 4']}}", "engines.defaults.extraArgs"),
    ("migrations: {to: newest}", "migrations.to"),
    ("networkPolicy: {gatewayFrom: [{pods: {}}]}", "networkPolicy.gatewayFrom pods"),
    ("networkPolicy: {prometheusFrom: [{}]}", "networkPolicy.prometheusFrom"),
    ("monitoring: {podMonitors: {interval: often}}", "monitoring.podMonitors.interval"),
    ("monitoring: {dashboards: {labels: {grafana_dashboard: 1}}}", "monitoring.dashboards.labels.grafana_dashboard"),
    ("listenAddress: 127.0.0.1", "listenAddress"),
    ("logLevel: verbose", "logLevel"),
    ("imagePullPolicy: always", "imagePullPolicy"),
    ("security: {runAsUser: 0}", "security.runAsUser"),
    ("global: {imageRegistry: 'https://registry.example.com'}", "global.imageRegistry"),
    ("global: {imagePullSecrets: [{name: a}]}", "global.imagePullSecrets"),
    ("migrations: {backoffLimit: -1}", "migrations.backoffLimit"),
    ("tests: {timeoutSeconds: 0}", "tests.timeoutSeconds"),
]  # fmt: skip
WRONG_POOLS = [
    ("{base: a, model: b}", "name"),
    ("{name: A_B, base: a, model: b}", "name"),
    ("{name: a, base: a, model: b, gpu: 2}", "gpu"),
    ("{name: a, base: a, model: b, gpus: -1}", "gpus"),
    ("{name: a, base: a, model: b, pricing: {price_per_gpu_hour: free}}", "price_per_gpu_hour"),
]
# Each right by itself, and wrong beside what the smallest value set says: the path begins the message.
CONTRADICTIONS = [
    ("gateway: {replicas: 2}", "limits.existingSecret: must be set"),
    ("gateway: {autoscaling: {enabled: true, minReplicas: 5, maxReplicas: 2}}", "gateway.autoscaling.maxReplicas: "),
    ("engines: {pools: [{name: a, base: a, model: b}, {name: a, base: c, model: d}]}", "engines.pools[1].name: "),
    ("engines: {pools: [{name: a, base: a, model: b}, {name: b, base: a, model: d}]}", "engines.pools[1].base: "),
    ("engines: {pools: [{name: a, base: a, model: b, slots: 4, maxLoras: 8}]}", "engines.pools[0].maxLoras: "),
    (
        "engines: {pools: [{name: a, base: a, model: b, modelCache: {type: existingClaim}}]}",
        "engines.pools[0].modelCache.existingClaim: ",
    ),
    (
        "engines: {pools: [{name: a, base: a, model: b, modelCache: {type: hostPath}}]}",
        "engines.pools[0].modelCache.hostPath: ",
    ),
    (
        "engines: {pools: [{name: a, base: a, model: b, maxSurge: 0, maxUnavailable: 0}]}",
        "engines.pools[0].maxUnavailable: ",
    ),
    (
        "engines: {pools: [{name: a, base: a, model: b, autoscaling: {type: keda, minReplicas: 9}}]}",
        "engines.pools[0].autoscaling.maxReplicas: ",
    ),
    ("engines: {pools: [{name: a, base: a, model: b, gpus: 0}]}", "engines.pools[0].gpus: must be at least 1"),
    (
        "engines: {pools: [{name: a, base: a, model: /var/lib/ostler/models/b}]}",
        "engines.pools[0].model: is a folder of the model cache, which is empty",
    ),
    ("engines: {pools: [{name: a, base: a, model: /models/b}]}", "engines.pools[0].model: there is no /models/b"),
    (
        "engines: {pools: [{name: a, base: a, model: b, extraArgs: [--port=9000]}]}",
        '"a": --port=9000 is given by the chart',
    ),
    (
        "engines: {pools: [{name: a, base: a, model: b, extraArgs: [--tensor_parallel_size, '2']}]}",
        "--tensor_parallel_size is given by the chart",
    ),
    (
        "engines: {pools: [{name: a, base: a, model: b, extraArgs: [--no-enable-lora]}]}",
        "--no-enable-lora is given by the chart",
    ),
    (
        "engines: {pools: [{name: a, base: a, model: b, extraEnv: [{name: VLLM_API_KEY, value: b}]}]}",
        'extraEnv of pool "a": VLLM_API_KEY wants a key',
    ),
    (
        "engines: {pools: [{name: a, base: a, model: b, extraEnv: [{name: HF_HOME, value: /tmp}]}]}",
        'extraEnv of pool "a": HF_HOME is set by the chart',
    ),
    ("gateway: {extraEnv: [{name: OSTLER_POOLS, value: '[]'}]}", "gateway.extraEnv: OSTLER_POOLS is set"),
    (
        "gateway: {settings: {max_in_flight: 5}, extraEnv: [{name: OSTLER_MAX_IN_FLIGHT, value: '6'}]}",
        "gateway.extraEnv: OSTLER_MAX_IN_FLIGHT is set",
    ),
    ("monitor: {extraEnv: [{name: A, value: b}, {name: A, value: c}]}", "monitor.extraEnv: A is set"),
    ("agent: {extraEnv: [{name: OSTLER_AGENT_TOKEN, value: b}]}", "agent.extraEnv: OSTLER_AGENT_TOKEN is set"),
    (
        "tuner: {enabled: true, extraEnv: [{name: OSTLER_BASE, value: b}]}",
        "tuner.extraEnv: OSTLER_BASE is set",
    ),
    (
        "{database: {existingSecret: a}, adminKey: {existingSecret: b}, embedded: {postgresql: {enabled: false}}}",
        "agent.existingSecret: must be set",
    ),
    (
        "{monitoring: {podMonitors: {enabled: true}}, metricsKey: {existingSecret: a}}",
        "networkPolicy.prometheusFrom: must name Prometheus where",
    ),
    (
        "engines: {pools: [{name: a, base: a, model: b, autoscaling: {type: hpa}}]}",
        'networkPolicy.prometheusFrom: must name Prometheus, by whose figures the pool "a"',
    ),
    ("migrations: {to: '0006', enabled: false}", "migrations.to: goes back by the migration"),
    ("migrations: {to: '0006'}", "migrations.to: goes back while nothing decides or trains"),
    (
        "{tuner: {enabled: true}, engines: {pools: [{name: a, base: a, model: /var/lib/ostler/models/b, "  # noqa: ISC004
        "modelCache: {type: existingClaim, existingClaim: c}}]}}",
        'tuner.modelCache.type: the pool "a"',
    ),
    (
        "tuner: {serviceAccount: {name: a}, kubernetes: {dispatcher: {serviceAccount: {name: a}}}}",
        "tuner.kubernetes.dispatcher.serviceAccount.name: must be another",
    ),
    (
        "{adminKey: {existingSecret: a, existingSecretKey: b}, metricsKey: {existingSecret: a, existingSecretKey: b}}",
        "metricsKey.existingSecretKey: must not be adminKey's",
    ),
    (
        "metricsKey: {existingSecret: prod-ostler-embedded, existingSecretKey: api-key}",
        "metricsKey.existingSecretKey: must not be adminKey's",
    ),
    ("monitoring: {rules: {without: [OstlerNothing]}}", "monitoring.rules.without: there is no alert"),
    (
        "tuner: {enabled: true, backend: kubernetes, runtimeClassName: nvidia, kubernetes: {kind: TrainJob}}",
        "tuner.runtimeClassName: is not for a TrainJob",
    ),
    (
        "tuner: {enabled: true, backend: kubernetes, priorityClassName: high, kubernetes: {kind: TrainJob}}",
        "tuner.priorityClassName: is not for a TrainJob",
    ),
    ("images: {registry: ''}", "images.registry: must be set"),
    ("agent: {enabled: false}", "agent.enabled: "),
    ("tuner: {pools: [nobody]}", "tuner.pools: "),
    ("tuner: {enabled: true, modelCache: {type: existingClaim}}", "tuner.modelCache.existingClaim: "),
    ("database: {existingSecret: mine}", "database.existingSecret: is set, and embedded.postgresql.enabled, too"),
    ("embedded: {postgresql: {enabled: false}}", "database.existingSecret: must be set"),
    ("{embedded: {postgresql: {enabled: false}}, database: {existingSecret: a}}", "adminKey.existingSecret: must be"),
    ("artifacts: {url: s3://bucket}", "artifacts.url: exactly one"),
    ("embedded: {s3: {enabled: false}}", "artifacts.url: exactly one"),
    ("{limits: {existingSecret: a}, embedded: {valkey: {enabled: true}}}", "limits.existingSecret: is set, and"),
]  # fmt: skip


def refusal(version: str, values: Json, folder: Path) -> str:
    """What helm says of wrong values beside those of the smallest value set."""
    (folder / "wrong.yaml").write_text(yaml.safe_dump(values))
    ran = template(version, f"--values={value_file('smallest')}", f"--values={folder / 'wrong.yaml'}")
    assert ran.returncode != 0, f"taken: {values}"
    return ran.stderr


def is_named(path: str, message: str) -> bool:
    """Whether a line of a message names a path, as helm 3 or 4 writes it, with all that is said beside it."""
    where, *words = path.split()
    ways = (where, "/" + where.replace(".", "/"))
    return any(
        any(way in line for way in ways) and all(word in line for word in words) for line in message.splitlines()
    )


@pytest.mark.parametrize("version", HELMS)
def test_wrong_values_are_refused_by_their_names(version: str, tmp_path: Path) -> None:
    """Before anything is installed: what has the wrong type, is out of its range, or is no value of the chart."""
    values: Json = {}
    for text, _ in SHAPES:
        values = merged(values, yaml.safe_load(text))
    message = refusal(version, values, tmp_path)
    assert [path for _, path in SHAPES if not is_named(path, message)] == [], message


@pytest.mark.parametrize("version", HELMS)
def test_wrong_pools_are_refused_by_number_and_name(version: str, tmp_path: Path) -> None:
    """So that one finds it in a long list."""
    message = refusal(version, {"engines": {"pools": [yaml.safe_load(text) for text, _ in WRONG_POOLS]}}, tmp_path)
    names = [f"engines.pools.{number} {name}" for number, (_, name) in enumerate(WRONG_POOLS)]
    assert [name for name in names if not is_named(name, message)] == [], message


@pytest.mark.parametrize("version", HELMS)
@pytest.mark.parametrize(("text", "said"), CONTRADICTIONS, ids=[said for _, said in CONTRADICTIONS])
def test_values_that_exclude_each_other_are_refused(text: str, said: str, version: str, tmp_path: Path) -> None:
    """With the name of the value to change."""
    assert f"{said}" in refusal(version, yaml.safe_load(text), tmp_path)


@pytest.mark.parametrize("text", [text for text, _ in (*SHAPES, *CONTRADICTIONS)])
def test_no_wrong_value_is_another_ones_shadow(text: str) -> None:
    """What is tried together with others is wrong by itself, or it would prove nothing."""
    values = merged(own_values("smallest"), yaml.safe_load(text))
    is_shape = any(text == shape for shape, _ in SHAPES)
    assert bool(list(validator().iter_errors(values))) is is_shape
