"""What a client's `model` means: the canary's split, what serves in its stead, and what does not exist for a key."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from gateway.errors import EngineUnavailable, ModelNotFound
from gateway.routing import Route, resolve, visible_models
from registry.catalog import (
    Adapter,
    ApiKey,
    Canary,
    Catalog,
    Deployment,
    FallbackStep,
    KeyLimits,
    Scope,
    Shadow,
    Version,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BASES = frozenset({"tiny", "large"})
SESSIONS = [f"session-{number}" for number in range(10_000)]


def version(adapter: str, number: int, *, archived: bool = False) -> Version:
    """A version whose engine name follows from its number."""
    digest = f"{number:08x}" + "0" * 56
    name = f"{adapter}@{number}-{digest[:8]}"
    return Version(adapter, number, name, digest, 4, 8.0, 100, 400, "", "test", NOW, archived)


def adapter(name: str = "support", deployment: Deployment | None = None, archived: int | None = None) -> Adapter:
    """An adapter of the base `tiny` in four versions."""
    versions = {number: version(name, number, archived=number == archived) for number in (1, 2, 3, 4)}
    return Adapter(name, "tiny", NOW, versions, deployment)


def catalog(*adapters: Adapter) -> Catalog:
    """A picture of these adapters."""
    return Catalog(1, {one.name: one for one in adapters})


def key(*adapters: str) -> ApiKey:
    """A key that is bound to these adapters, or to none."""
    bound = frozenset(adapters) or None
    return ApiKey("k1", "team", "sk-..", frozenset({Scope.INFERENCE}), bound, KeyLimits(), "test", NOW)


def routed(
    deployment: Deployment, session: str = "s", failing: tuple[int, ...] = (), archived: int | None = None
) -> Route:
    """Where `support` leads."""
    names = {version("support", number).engine_name for number in failing}
    one = adapter(deployment=deployment, archived=archived)
    return resolve(catalog(one), BASES, key(), "support", session, lambda name: name not in names)


def on_canary(name: str, canary: int, weight: float) -> set[str]:
    """The sessions that an adapter's canary gets."""
    picture = catalog(adapter(name, Deployment(2, 1, Canary(canary, weight))))
    found = set()
    for session in SESSIONS:
        route = resolve(picture, BASES, key(), name, session)
        assert (route.variant, route.version) == (
            ("canary", picture.adapters[name].versions[canary])
            if route.variant == "canary"
            else ("stable", picture.adapters[name].versions[1])
        )
        if route.variant == "canary":
            found.add(session)
    return found


@pytest.mark.parametrize("name", ["support", "billing", "a"])
@pytest.mark.parametrize("weight", [0.01, 0.1, 0.5, 0.9])
def test_the_canarys_share_is_its_weight(name: str, weight: float) -> None:
    """Over 10,000 sessions, within 3 standard errors."""
    error = math.sqrt(weight * (1 - weight) / len(SESSIONS))
    assert abs(len(on_canary(name, 2, weight)) / len(SESSIONS) - weight) <= 3 * error


def test_a_session_keeps_its_variant() -> None:
    """Each time it is asked, and after whatever else of the deployment changed."""
    before = on_canary("support", 2, 0.3)
    assert on_canary("support", 2, 0.3) == before
    changed = Deployment(9, 3, Canary(2, 0.3), Shadow(4, 0.5), ("previous", "base"), 1)
    again = {session for session in SESSIONS if routed(changed, session).variant == "canary"}
    assert again == before


def test_a_higher_weight_only_adds_sessions() -> None:
    """Each step keeps those of the step before, so raising the weight moves sessions one way."""
    steps = [on_canary("support", 2, weight) for weight in (0.0, 0.05, 0.2, 0.5, 0.99, 1.0)]
    assert all(lower < higher for lower, higher in itertools.pairwise(steps))
    assert steps[0] == set()
    assert steps[-1] == set(SESSIONS)


def test_no_session_goes_back_at_the_promotion() -> None:
    """Those that a holdback keeps with the old version never saw the new one, and are of the share that it says."""
    on_new = on_canary("support", 2, 0.9)
    for share in (0.0, 0.05, 0.1, 1.0):
        promoted = Deployment(3, 2, Canary(1, share, holdback=True), previous=1)
        routes = {session: routed(promoted, session) for session in SESSIONS}
        held = {session for session, route in routes.items() if route.version and route.version.number == 1}
        assert all(routes[session].variant == "canary" for session in held)
        assert abs(len(held) / len(SESSIONS) - share) <= 3 * math.sqrt(share * (1 - share) / len(SESSIONS))
        assert not held & on_new or share > 0.1


@pytest.mark.parametrize(("name", "canary"), [("support", 3), ("billing", 2)])
def test_another_canary_gets_other_sessions(name: str, canary: int) -> None:
    """It is not the same clients that try everything: two draws of a half overlap by a quarter, within 3 errors."""
    both = on_canary("support", 2, 0.5) & on_canary(name, canary, 0.5)
    assert abs(len(both) / len(SESSIONS) - 0.25) <= 3 * math.sqrt(0.25 * 0.75 / len(SESSIONS))


ALL = Canary(2, 1.0)
NONE = Canary(2, 0.0)
BOTH: tuple[FallbackStep, ...] = ("previous", "base")


@pytest.mark.parametrize(
    ("deployment", "failing", "variant", "number"),
    [
        (Deployment(1, 1), (), "stable", 1),
        (Deployment(1, 1, ALL), (), "canary", 2),
        (Deployment(1, 1, NONE), (), "stable", 1),
        (Deployment(1, 1, ALL), (1,), "canary", 2),
        (Deployment(1, 1, ALL), (2,), "fallback", 1),
        (Deployment(1, 1, NONE), (2,), "stable", 1),
        (Deployment(1, 1, ALL, fallback=("base",)), (2,), "fallback", 1),
        (Deployment(1, 1, ALL, fallback=("base",)), (1, 2), "fallback", None),
        (Deployment(1, 1, ALL, fallback=BOTH, previous=3), (1, 2), "fallback", 3),
        (Deployment(1, 1, fallback=("previous",), previous=3), (), "stable", 1),
        (Deployment(1, 1, fallback=("previous",), previous=3), (1,), "fallback", 3),
        (Deployment(1, 1, fallback=BOTH, previous=3), (1,), "fallback", 3),
        (Deployment(1, 1, fallback=BOTH, previous=3), (1, 3), "fallback", None),
        (Deployment(1, 1, fallback=("base", "previous"), previous=3), (1,), "fallback", None),
        (Deployment(1, 1, fallback=BOTH), (1,), "fallback", None),
        (Deployment(1, 1, fallback=BOTH, previous=4), (1,), "fallback", None),
    ],
)
def test_what_fails_is_stood_in_for(
    deployment: Deployment, failing: tuple[int, ...], variant: str, number: int | None
) -> None:
    """The canary by the stable version, that by the deployment's chain; an archived version (4) never serves."""
    route = routed(deployment, failing=failing, archived=4)
    expected = version("support", number) if number else None
    assert (route.variant, route.version) == (variant, expected)
    assert route.model == (expected.engine_name if expected else "tiny")
    assert (route.adapter, route.pool) == ("support", "tiny")
    turn = deployment.canary.version if deployment.canary and deployment.canary.weight else deployment.stable
    assert route.intended == (turn if variant == "fallback" else None)


@pytest.mark.parametrize(
    ("deployment", "failing"),
    [
        (Deployment(1, 1), (1,)),
        (Deployment(1, 1, ALL), (1, 2)),
        (Deployment(1, 1, NONE), (1,)),
        (Deployment(1, 1, fallback=("previous",), previous=3), (1, 3)),
        (Deployment(1, 1, fallback=("previous",), previous=4), (1,)),
        (Deployment(1, 1, fallback=("previous",)), (1,)),
    ],
)
def test_if_nothing_can_stand_in_it_says_so(deployment: Deployment, failing: tuple[int, ...]) -> None:
    """503 with retry-after, under the client's own name for it. What no canary session is on does not stand in."""
    with pytest.raises(EngineUnavailable) as refused:
        routed(deployment, failing=failing, archived=4)
    assert (refused.value.status, refused.value.code) == (503, "version_not_servable")
    assert refused.value.retry_after_s is not None
    assert refused.value.message.startswith("'support' fails")


def test_only_what_is_about_to_serve_is_asked() -> None:
    """To ask a breaker may be its one trial, so that of a version which will not serve is left alone."""
    asked: list[str] = []

    def allows(name: str) -> bool:
        asked.append(name)
        return True

    deployment = Deployment(1, 1, ALL, Shadow(3, 1.0), BOTH, 3)
    resolve(catalog(adapter(deployment=deployment)), BASES, key(), "support", "s", allows)
    assert asked == [version("support", 2).engine_name]


@pytest.mark.parametrize("deployment", [None, Deployment(1, 1, ALL, Shadow(3, 1.0), ("base",), 2)])
@pytest.mark.parametrize("model", ["support@3", version("support", 3).engine_name])
def test_a_pinned_version_is_that_one(model: str, deployment: Deployment | None) -> None:
    """Deployed or not; no canary, no shadow."""
    route = resolve(catalog(adapter(deployment=deployment)), BASES, key(), model, "s")
    expected = version("support", 3)
    assert route == Route(expected.engine_name, "tiny", "pinned", "support", expected, None)


def test_a_pinned_version_that_fails_is_not_stood_in_for() -> None:
    """Who names a version wants that one, so the fallback does not count."""
    picture = catalog(adapter(deployment=Deployment(1, 1, fallback=("base",))))
    with pytest.raises(EngineUnavailable, match="'support@1' fails"):
        resolve(picture, BASES, key(), "support@1", "s", lambda _: False)


@pytest.mark.parametrize("model", ["support@4", version("support", 4).engine_name, "support@9", "support@3-ffffffff"])
def test_archived_and_unknown_versions_do_not_exist(model: str) -> None:
    """Nor does a version with another content."""
    picture = catalog(adapter(deployment=Deployment(1, 1), archived=4))
    with pytest.raises(ModelNotFound):
        resolve(picture, BASES, key(), model, "s")


def test_a_deployments_shadow_goes_with_every_route_of_it() -> None:
    """Whatever serves; not with a base model that was asked for by name."""
    shadow = Shadow(None, 0.5)
    deployment = Deployment(1, 1, ALL, shadow, ("base",))
    assert [routed(deployment, failing=failing).shadow for failing in ((), (2,), (1, 2))] == [shadow] * 3
    assert resolve(catalog(), BASES, key(), "large", "s") == Route("large", "large", "base", None, None)


def test_an_adapter_without_a_live_version_says_so() -> None:
    """To those who may know of it, with what would be right."""
    with pytest.raises(ModelNotFound, match="no version in service yet"):
        resolve(catalog(adapter()), BASES, key("support"), "support", "s")


TENANTS = catalog(
    adapter("support", Deployment(1, 1)), adapter("secret", Deployment(1, 1, fallback=("base",))), adapter("draft")
)


@pytest.mark.parametrize("hide", [lambda model: model, str.upper])
@pytest.mark.parametrize(
    "model",
    ["secret", "secret@1", version("secret", 1).engine_name, "secret@9", "draft", "draft@1", "tiny", "large", "other"],
)
def test_what_a_key_may_not_use_is_told_of_as_what_does_not_exist(model: str, hide: Callable[[str], str]) -> None:
    """The same error to the letter but for the name that the client said, even while its version fails."""
    bound = key("support")
    with pytest.raises(ModelNotFound) as refused:
        resolve(TENANTS, BASES, bound, hide(model), "s", lambda _: False)
    with pytest.raises(ModelNotFound) as unknown:
        resolve(catalog(adapter("support", Deployment(1, 1))), frozenset(), bound, "no-such-model", "s")
    assert refused.value.message.replace(f"'{hide(model)}'", "'no-such-model'") == unknown.value.message
    assert (refused.value.param, refused.value.code) == (unknown.value.param, unknown.value.code)


def test_a_bound_keys_fallback_may_be_the_base() -> None:
    """The deployment says so, though the key may not ask for the base by name."""
    route = resolve(TENANTS, BASES, key("secret"), "secret", "s", lambda _: False)
    assert (route.variant, route.model) == ("fallback", "tiny")


def test_visible_models_are_those_that_can_be_asked_for() -> None:
    """Deployments and bases, as far as the key goes."""
    assert visible_models(TENANTS, BASES, key()) == ["secret", "support", "large", "tiny"]
    assert visible_models(TENANTS, BASES, key("support", "draft", "tiny")) == ["support", "tiny"]


def test_errors_do_not_grow_with_the_catalog() -> None:
    """They list twenty names and cut what the client said."""
    many = catalog(*(replace(adapter(f"a{number:03}"), deployment=Deployment(1, 1)) for number in range(50)))
    with pytest.raises(ModelNotFound) as refused:
        resolve(many, frozenset(), key(), "x" * 10_000, "s")
    assert refused.value.message.endswith("a019 and 30 more")
    assert len(refused.value.message) < 400
