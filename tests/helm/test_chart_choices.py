"""What single values change in the objects: images, tokens, the way back, disk, moves between nodes, accounts."""

import re

import pytest

from tests.helm.chart import (
    CHART,
    ROOT,
    VALUE_SETS,
    Json,
    Rendered,
    Workload,
    objects_of,
    rendered,
    template,
    value_file,
)
from tests.helm.running_rules import environment

each_set = pytest.mark.parametrize("value_set", VALUE_SETS)

GIB = 1024
SAFE = "cluster-autoscaler.kubernetes.io/safe-to-evict"


def made(value_set: str, *choices: str) -> Rendered:
    """A value set with other values, as `--set` takes them."""
    ran = template("4", f"--values={value_file(value_set)}", *(f"--set={choice}" for choice in choices))
    assert ran.returncode == 0, ran.stderr
    return Rendered(objects_of(ran.stdout), {})


def pods_of(chart: Rendered, component: str) -> Workload:
    """The first workload of a component."""
    return next(pods for pods in chart.workloads if pods.component == component)


def container(pods: Workload, name: str) -> Json:
    """One container of a workload."""
    return next(each for each in pods.containers if each["name"] == name)


def test_the_mirror_is_for_all_images_and_the_registry_for_our_own() -> None:
    """A repository that names a registry keeps it; so vLLM is not looked for where only Ostler's images are."""
    own = made("smallest", "engines.pools[0].device=gpu", "engines.pools[0].gpus=1")
    both = made(
        "smallest", "global.imageRegistry=mirror.example.com", "embedded.s3.image.repository=own.example.com/s3"
    )

    assert images(own) == {
        *("registry.example.com/ostler/gateway:0.1.0", "registry.example.com/ostler/monitor:0.1.0"),
        *("registry.example.com/ostler/agent:0.1.0", "vllm/vllm-openai:v0.32.0"),
        *("postgres:17", "versity/versitygw:v1.8.0"),
    }
    assert {"own.example.com/s3:v1.8.0", "mirror.example.com/postgres:17"} <= images(both)
    assert "registry.example.com/ostler/gateway:0.1.0" in images(both)


def images(chart: Rendered) -> set[str]:
    """Every image that pods run."""
    return {each["image"] for pods in chart.workloads for each in pods.containers}


@each_set
def test_agents_ask_gateways_for_a_token(value_set: str) -> None:
    """The same Secret on both sides, made where the database is embedded, too."""
    chart = rendered(value_set)
    told = environment(container(pods_of(chart, "gateway"), "gateway"))
    agents = [each for pods in chart.workloads for each in pods.containers if each["name"] == "agent"]
    for each in agents:
        assert environment(each)["OSTLER_AGENT_TOKEN"] == told["OSTLER_AGENT_TOKEN"]


@each_set
def test_gateways_may_wait_for_engines_that_load(value_set: str) -> None:
    """Longer than the slowest engine, or Helm and Argo CD take a first installation for failed."""
    chart = rendered(value_set)
    pools = [chart.values["engines"]["defaults"] | pool for pool in chart.values["engines"]["pools"]]
    slowest = max((pool["startupSeconds"] for pool in pools), default=0)
    for pods in chart.workloads:
        if pods.component == "gateway" and pods.kind == "Deployment":
            assert pods.owner["spec"]["progressDeadlineSeconds"] >= slowest + 300


def test_the_way_back_is_one_migration_by_the_newer_program() -> None:
    """Before anything else changes, without the keys, which the newer program cannot write into the older schema."""
    off = ("monitor.enabled=false", "tuner.enabled=false")
    back = made("external", "migrations.to=0006", *off)
    forth = made("external", *off)

    (job,) = back.of("Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert [each["args"] for each in pods_of(back, "migrate").containers] == [["migrate", "--to", "0006", "--yes"]]
    assert (
        container(pods_of(back, "migrate"), "migrate")["image"]
        == container(pods_of(back, "gateway"), "gateway")["image"]
    )
    assert [each for each in back.objects if each["kind"] != "Job"] == [
        each for each in forth.objects if each["kind"] != "Job"
    ]


def test_the_embedded_database_goes_back_in_a_job_of_that_revision() -> None:
    """Which waits for it first."""
    job = pods_of(made("smallest", "migrations.to=0006", "monitor.enabled=false"), "migrate")
    assert [each["name"] for each in job.containers] == ["wait-for-database", "migrate"]
    assert container(job, "migrate")["args"] == ["migrate", "--to", "0006", "--yes"]


def test_a_migration_ends_before_helm_gives_up() -> None:
    """It has long enough for a large database, and every command of the docs that waits for it has Helm wait longer."""
    (job,) = rendered("external").of("Job")
    pages = [*(ROOT / "docs").glob("*.md"), CHART / "README.md"]
    commands = [each for page in pages for each in re.findall(r"^helm upgrade(?:.*\\\n)*.*", page.read_text(), re.M)]
    hooked = [each for each in commands if "migrations.enabled=false" not in each and "tryout" not in each]
    assert len(hooked) >= 5
    for each in hooked:
        told = re.search(r"--timeout (\d+)m", each)
        assert told, each
        assert 1800 <= job["spec"]["activeDeadlineSeconds"] < int(told[1]) * 60, each
    assert rendered("external").values["tests"]["timeoutSeconds"] < 300  # helm's own, as nobody says another for a test


@each_set
def test_nodes_have_the_disk_that_volumes_may_fill(value_set: str) -> None:
    """What a pod requests is as large as its sized emptyDirs together; an engine's are all sized."""
    for pods in rendered(value_set).workloads:
        volumes = [each["emptyDir"] for each in pods.spec.get("volumes", []) if "emptyDir" in each]
        assert pods.component != "engine" or all("sizeLimit" in each for each in volumes), str(pods)
        sizes = [each["sizeLimit"] for each in volumes if "sizeLimit" in each and each.get("medium") != "Memory"]
        assert disk_of(pods) == sum(map(mebibytes, sizes)), str(pods)


def disk_of(pods: Workload) -> int:
    """The MiB that a pod requests: its containers' together, or what one needs that ends before they begin."""
    first = [each for each in pods.spec.get("initContainers", []) if each.get("restartPolicy") != "Always"]
    alone, together = (
        [disk(each) for each in group] for group in (first, [c for c in pods.containers if c not in first])
    )
    return max([sum(together), *alone])


def disk(container: Json) -> int:
    """The MiB that a container requests."""
    return mebibytes(container["resources"]["requests"].get("ephemeral-storage", "0Mi"))


def mebibytes(size: str) -> int:
    """A size in MiB."""
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", size).groups()  # type: ignore[union-attr]
    return int(number) * (GIB if unit == "Gi" else 1)


@pytest.mark.parametrize(("size", "requested"), [("1500M", "1431Mi"), ("1.5Ti", "1572864Mi"), ("300Ki", "1Mi")])
def test_sizes_are_read_in_every_unit(size: str, requested: str) -> None:
    """As Kubernetes writes quantities; part of a MiB counts as a whole one."""
    gateway = container(pods_of(made("smallest", f"gateway.workSize={size}"), "gateway"), "gateway")
    assert gateway["resources"]["requests"]["ephemeral-storage"] == requested


def test_a_request_of_the_operator_wins() -> None:
    """Where the resources themselves speak of the disk."""
    chart = made("smallest", "gateway.resources.requests.ephemeral-storage=2Gi")
    requests = container(pods_of(chart, "gateway"), "gateway")["resources"]["requests"]
    assert requests["ephemeral-storage"] == "2Gi"


LIMITED = ("gateway", "monitor", "engines.defaults", "agent", "tuner", "tuner.kubernetes.dispatcher", "migrations")


@pytest.mark.parametrize(("value_set", "job"), [("everything", "Job"), ("train-job", "TrainJob")])
def test_a_limit_of_the_operator_has_no_request_above_it(value_set: str, job: str) -> None:
    """The API server refuses such an object; a limit alone is the request as well."""
    chart = made(value_set, *(f"{each}.resources.limits.ephemeral-storage=4Gi" for each in LIMITED))
    limited = [
        (pods, each["resources"])
        for pods in chart.workloads
        for each in pods.containers
        if "ephemeral-storage" in each["resources"].get("limits", {})
    ]
    kinds = {"engine", "gateway", "migrate", "monitor", "tuner", "tuning-job"}
    assert {pods.component for pods, _ in limited} == kinds
    assert {pods.kind for pods, _ in limited if pods.component == "tuning-job"} == {job}
    assert all(len([each for each, _ in limited if each is pods]) == len(pods.containers) for pods, _ in limited)
    for pods, resources in limited:
        assert "ephemeral-storage" not in resources["requests"], str(pods)


def test_no_pod_has_ids_where_the_cluster_chooses_them() -> None:
    """Those of others' images neither; where only one is left to the cluster, the images' own are the rest."""
    null = ("security.runAsUser=null", "security.runAsGroup=null", "security.fsGroup=null")
    for pods in made("tryout", "embedded.valkey.enabled=true", *null).workloads:
        for context in (pods.spec["securityContext"], *(each["securityContext"] for each in pods.containers)):
            assert not {"runAsUser", "runAsGroup", "fsGroup"} & context.keys(), str(pods)
            assert context["runAsNonRoot"] is True, str(pods)
    context = pods_of(made("tryout", "security.runAsUser=null"), "postgresql").spec["securityContext"]
    assert (context.get("runAsUser"), context["runAsGroup"], context["fsGroup"]) == (None, 999, 999)


def test_pods_that_serve_may_be_moved_and_those_that_train_may_not() -> None:
    """Unless the operator's annotations say otherwise."""
    chart = made("everything", rf"monitor.podAnnotations.{SAFE.replace('.', chr(92) + '.')}=maybe")
    said = {
        pods.component: pods.template["metadata"]["annotations"].get(SAFE)
        for pods in chart.workloads
        if pods.component in {"gateway", "engine", "monitor", "tuner", "tuning-job"}
    }
    assert said == {"gateway": "true", "engine": "true", "monitor": "maybe", "tuner": "true", "tuning-job": "false"}
    assert pods_of(chart, "tuning-job").template["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"


def test_the_dispatcher_may_have_an_account_of_the_cloud() -> None:
    """An existing one gets the rights, and none is made; it runs the gateways' image, where its values say."""
    place = "tuner.kubernetes.dispatcher"
    chart = made("everything", f"{place}.serviceAccount.name=team", f"{place}.nodeSelector.size=small")
    dispatcher = next(pods for pods in chart.workloads if pods.spec.get("automountServiceAccountToken"))
    (binding,) = chart.of("RoleBinding")

    assert binding["subjects"][0]["name"] == dispatcher.spec["serviceAccountName"] == "team"
    assert not [each for each in chart.of("ServiceAccount") if "dispatcher" in each["metadata"]["name"]]
    assert dispatcher.spec["nodeSelector"] == {"size": "small"}
    assert container(dispatcher, "tuner")["image"] == container(pods_of(chart, "gateway"), "gateway")["image"]


def test_volumes_of_engines_go_with_them_where_the_values_say() -> None:
    """They are caches, and cost as long as they are kept."""
    kept, gone = made("gpu-keda"), made("gpu-keda", "engines.defaults.modelCache.keep=false")
    policies = [
        chart.of("StatefulSet")[0]["spec"].get("persistentVolumeClaimRetentionPolicy") for chart in (kept, gone)
    ]
    assert policies == [None, {"whenDeleted": "Delete", "whenScaled": "Delete"}]


@pytest.mark.parametrize(("release", "choices"), [("1rel", ()), ("a.b", ()), ("a.b", ("fullnameOverride=ab",))])
def test_services_have_names_that_kubernetes_takes(release: str, choices: tuple[str, ...]) -> None:
    """A letter first, and no dots; a release that is called otherwise needs a name for its objects."""
    ran = template("4", f"--values={value_file('smallest')}", *(f"--set={each}" for each in choices), release=release)
    assert (ran.returncode == 0) is bool(choices)
    assert choices or "fullnameOverride: must be set" in ran.stderr
