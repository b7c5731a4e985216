"""What the chart's objects must hold that no schema can see: each rule on each value set."""

from collections.abc import Callable, Iterator

import pytest

from tests.helm import naming_rules, running_rules
from tests.helm.chart import (
    KUBERNETES,
    LONG_RELEASE,
    VALUE_SETS,
    Json,
    Rendered,
    objects_of,
    rendered,
    template,
    value_file,
)

Rule = Callable[[Rendered], Iterator[str]]
RULES: list[Rule] = [
    naming_rules.names,
    naming_rules.labels,
    naming_rules.controllers,
    naming_rules.services,
    naming_rules.spread,
    naming_rules.autoscalers,
    naming_rules.scrapes,
    naming_rules.policies,
    naming_rules.routes,
    naming_rules.addresses,
    naming_rules.references,
    naming_rules.hooks,
    naming_rules.mounts,
    naming_rules.checksums,
    running_rules.security,
    running_rules.writable,
    running_rules.tokens,
    running_rules.resources,
    running_rules.images,
    running_rules.ports,
    running_rules.probes,
    running_rules.health_paths,
    running_rules.slow_starts,
    running_rules.disruptions,
]


@pytest.mark.parametrize("value_set", VALUE_SETS)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_objects_keep_the_rules(rule: Rule, value_set: str) -> None:
    """On an old cluster, where agents are ordinary containers, and on a new one, where they are sidecars."""
    for kubernetes in (KUBERNETES[0], KUBERNETES[-1]):
        wrong = list(rule(rendered(value_set, kubernetes=kubernetes)))
        assert not wrong, "\n".join([f"Kubernetes {kubernetes}:", *wrong])


@pytest.mark.parametrize("value_set", VALUE_SETS)
def test_the_database_is_migrated_before_the_processes_change(value_set: str) -> None:
    """By a hook where the database is there before; by a Job of each revision where it comes with the release."""
    for job in rendered(value_set).of("Job"):
        hook = job["metadata"].get("annotations", {}).get("helm.sh/hook")
        if rendered(value_set).values["embedded"]["postgresql"]["enabled"]:
            assert hook is None
            assert job["metadata"]["name"].endswith("-r1"), "a Job cannot be changed: each revision needs its own name"
        else:
            assert hook == "pre-install,pre-upgrade"


def test_an_upgrade_changes_nothing_that_cannot_be_changed() -> None:
    """Kubernetes refuses other selectors and other claims, whatever labels the new values bring."""
    ran = template("4", f"--values={value_file('everything')}", "--set=commonLabels.new=label", "--is-upgrade")
    before, after = (
        {naming_rules.label(each): fixed(each) for each in objects if each["kind"] in {"Deployment", "StatefulSet"}}
        for objects in (rendered("everything").objects, objects_of(ran.stdout))
    )
    assert before == after


def fixed(each: Json) -> list[Json]:
    """What is fixed once a controller is made."""
    spec = each["spec"]
    return [spec["selector"], spec.get("serviceName"), spec.get("volumeClaimTemplates")]


def test_names_stay_apart_however_long_the_release_is_called() -> None:
    """What is cut short is cut so that nothing meets, and selectors still find their own."""
    chart = rendered("everything", release=LONG_RELEASE)
    for rule in (naming_rules.names, naming_rules.controllers, naming_rules.services, naming_rules.autoscalers):
        assert list(rule(chart)) == []
    other = rendered("everything", release=LONG_RELEASE[:-1] + "4")
    names = {naming_rules.label(each) for each in chart.objects}
    assert not names & {naming_rules.label(each) for each in other.objects}
