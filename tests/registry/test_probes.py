"""Which probes are taken with a version, which adapters are refused because they do nothing, and what a distance is."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.artifacts import ArtifactStore
from registry.errors import InvalidAdapter
from registry.lora import check_adapter
from registry.probes import PROBES_FILE, TOP_TOKENS, Distribution, distance, read_probes
from tests.registry.lora_samples import BASE, tensors, write_adapter

WITH, ALONE = {"5": -0.1, "6": -3.0}, {"5": -3.0, "7": -0.1}
Content = dict[str, Any]


def content(**changes: Any) -> Content:
    """Sound probes; a change is of the first probe's fields or of the file's."""
    probe = {"tokens": [1, 2, 3], "logprobs": WITH, "base_logprobs": ALONE}
    file = {"format": 1, "dtype": "float32", "probes": [probe | {k: v for k, v in changes.items() if k in probe}]}
    return file | {name: value for name, value in changes.items() if name not in probe}


def write(folder: Path, probes: Content | str) -> Path:
    """A sound adapter with these probes beside it."""
    write_adapter(folder)
    (folder / PROBES_FILE).write_text(probes if isinstance(probes, str) else json.dumps(probes))
    return folder


def refused(folder: Path) -> InvalidAdapter:
    """The refusal at a push, which tells a file and no path."""
    with pytest.raises(InvalidAdapter) as caught:
        check_adapter(folder, BASE)
    assert str(folder) not in caught.value.message
    assert caught.value.file is not None
    assert caught.value.file in caught.value.message
    return caught.value


# --- reading ---------------------------------------------------------------------------------------------------


def test_reads_sound_probes(tmp_path: Path) -> None:
    """What was written is what is read, with token ids as numbers."""
    probes = read_probes(write(tmp_path, content()))
    assert probes is not None
    assert probes.dtype == "float32"
    (probe,) = probes.probes
    assert probe.tokens == (1, 2, 3)
    assert probe.logprobs == {5: -0.1, 6: -3.0}
    assert probe.base_logprobs == {5: -3.0, 7: -0.1}


def test_probes_need_not_be_there(tmp_path: Path) -> None:
    """A version without them has none, and its files are two."""
    folder = write_adapter(tmp_path)
    assert read_probes(folder) is None
    assert PROBES_FILE not in check_adapter(folder, BASE).files


def test_probes_belong_to_the_version(tmp_path: Path, store: ArtifactStore) -> None:
    """They are among its files, so they count in its digest and come back with it."""
    digests = []
    for name, probes in (("a", content()), ("b", content(tokens=[4]))):
        folder = write(tmp_path / name, probes)
        checked = check_adapter(folder, BASE)
        artifact = store.put(folder, checked.files, checked.config)
        assert read_probes(store.fetch(artifact.digest)) == read_probes(folder)
        digests.append(artifact.digest)
    assert digests[0] != digests[1]


LONG = {str(token): -20.0 for token in range(TOP_TOKENS)}
ACCEPTED: list[Content] = [
    content(tokens=[0] * 512),
    content(tokens=[63]),
    content(logprobs=LONG),
    content(dtype="bfloat16"),
    content(probes=content()["probes"] * 16),
    content(logprobs={"1": 0, "2": -9999.0}),
]


@pytest.mark.parametrize("probes", ACCEPTED, ids=range(len(ACCEPTED)))
def test_takes_what_lies_on_the_limits(probes: Content, tmp_path: Path) -> None:
    """The largest of each is still taken."""
    assert PROBES_FILE in check_adapter(write(tmp_path, probes), BASE).files


REFUSED: list[tuple[Content | str, str]] = [
    ("", "JSON"),
    ("[]", "object"),
    ("{", "JSON"),
    ('{"format": 1, "dtype": "float32", "probes": NaN}', "JSON"),
    (content(format=2), "`format`"),
    (content(dtype="int8"), "`dtype`"),
    (content(extra=1), "extra"),
    (content(probes=[]), "`probes`"),
    (content(probes=content()["probes"] * 17), "`probes`"),
    (content(probes=[{"tokens": [1], "logprobs": WITH}]), "base_logprobs"),
    (content(tokens=[]), "probes[0].tokens"),
    (content(tokens=[1] * 513), "probes[0].tokens"),
    (content(tokens=[1.5]), "probes[0].tokens[0]"),
    (content(tokens=["1"]), "probes[0].tokens[0]"),
    (content(tokens=[True]), "probes[0].tokens[0]"),
    (content(tokens=[-1]), "probes[0].tokens[0]"),
    (content(tokens=[64]), "probes[0]"),
    (content(logprobs={**WITH, "64": -9.0}), "probes[0]"),
    (content(base_logprobs={**ALONE, "64": -9.0}), "probes[0]"),
    (content(logprobs={"5": -0.1}), "probes[0].logprobs"),
    (content(logprobs=LONG | {"63": -20.0}), "probes[0].logprobs"),
    (content(logprobs={"five": -0.1, "6": -3.0}), "probes[0].logprobs"),
    (content(logprobs={"-5": -0.1, "6": -3.0}), "probes[0].logprobs"),
    (content(logprobs={"5": 0.1, "6": -3.0}), "probes[0].logprobs"),
    (content(logprobs={"5": "-0.1", "6": -3.0}), "probes[0].logprobs"),
    (content(logprobs={"5": None, "6": -3.0}), "probes[0].logprobs"),
    (content(logprobs={"5": math.nan, "6": -3.0}), "JSON"),
    (content(logprobs={"5": -math.inf, "6": -3.0}), "JSON"),
    (json.dumps(content(logprobs={"5": -0.1, "6": -3.0})).replace("-3.0", "-1e999"), ""),
    (content(logprobs={"5": -0.1, "6": -0.1}), "probes[0].logprobs"),
    (content(base_logprobs={"5": 0.0, "6": 0.0}), "probes[0].base_logprobs"),
    (json.dumps(content()) + " " * 65_536, "65536"),
]


@pytest.mark.parametrize(("probes", "told"), REFUSED, ids=range(len(REFUSED)))
def test_refuses_unsound_probes(probes: Content | str, told: str, tmp_path: Path) -> None:
    """The push is refused, and told where it is wrong."""
    error = refused(write(tmp_path, probes))
    assert (error.reason, error.file) == ("invalid_probes", PROBES_FILE)
    assert told in error.message


# --- what does nothing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("same", [ALONE, {"5": -3.00001, "7": -0.1}])
def test_refuses_probes_that_are_the_bases(same: dict[str, float], tmp_path: Path) -> None:
    """If the adapter's numbers are the base's up to rounding, it does nothing."""
    assert refused(write(tmp_path, content(logprobs=same))).reason == "no_op"


def test_one_probe_that_differs_is_enough(tmp_path: Path) -> None:
    """An adapter may leave some prompts as they were."""
    same = {"tokens": [9], "logprobs": ALONE, "base_logprobs": ALONE}
    check_adapter(write(tmp_path, content(probes=[same, *content()["probes"]])), BASE)


def sides(values: dict[str, np.ndarray], change: Callable[[str], bool], to: float) -> dict[str, np.ndarray]:
    """The tensors with those that `change` names set to one number."""
    return {name: np.full_like(value, to) if change(name) else value for name, value in values.items()}


NO_OPS: list[tuple[str, Callable[[str], bool]]] = [
    ("B is zero", lambda name: "lora_B" in name),
    ("A is zero", lambda name: "lora_A" in name),
    ("all is zero", lambda name: True),
    ("one of each pair is zero", lambda name: ("lora_B" in name) == (".0." in name)),
]


@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("name", "change"), NO_OPS, ids=[name for name, _ in NO_OPS])
def test_refuses_weights_that_do_nothing(
    name: str, change: Callable[[str], bool], dtype: str, zero: float, tmp_path: Path
) -> None:
    """Where each module's product is zero the push is refused, without any probe."""
    error = refused(write_adapter(tmp_path, None, sides(tensors(dtype), change, zero)))
    assert error.reason == "no_op"


@pytest.mark.parametrize("bits", [0, 0x8000])
def test_refuses_bfloat16_zeros(bits: int, tmp_path: Path) -> None:
    """Zeros of either sign are found in a type that numpy does not know."""
    values = {name: np.full_like(value, bits) for name, value in tensors("uint16").items()}
    assert refused(write_adapter(tmp_path, None, values)).reason == "no_op"


def test_takes_weights_of_which_some_are_zero(tmp_path: Path) -> None:
    """One number in the last module is enough: training leaves some modules as they began."""
    values = sides(tensors(), lambda name: "lora_B" in name, 0.0)
    *_, last = (name for name in values if "lora_B" in name)
    values[last][-1, -1] = 1e-30
    check_adapter(write_adapter(tmp_path, None, values), BASE)


# --- the distance ----------------------------------------------------------------------------------------------

DISTANCES: list[tuple[Distribution, Distribution, float, float]] = [
    ({1: -0.5, 2: -1.0}, {1: -0.5, 2: -1.0}, 0.0, 0.0),
    ({1: -0.5, 2: -1.0}, {1: -0.7, 2: -0.9}, 0.0, 0.2),
    ({1: -0.5, 2: -1.0}, {1: -0.5, 3: -1.0}, 0.0, 0.0),  # near-equal at the end: nothing is proved
    ({1: -0.5, 2: -1.0}, {1: -0.5, 3: -4.0}, 0.0, 3.0),  # in the other, 2 is no likelier than 3
    ({1: -0.1, 2: -9.0}, {3: -0.1, 4: -9.0}, 0.0, 8.9),  # nothing in common
    ({1: -0.1, 2: -9.0}, {1: -0.1, 2: -8.0}, 0.0, 1.0),
    ({1: -0.1, 2: -9.0}, {1: -0.1, 2: -8.0}, 1e-3, 0.0),  # too unlikely on both sides to count
    ({1: -0.1, 2: -9.0}, {1: -0.1, 2: -5.0}, 1e-3, 4.0),  # likely on one side
    ({1: -9.0, 2: -9.5}, {1: -8.0, 2: -9.5}, 1e-3, 1.0),  # the likeliest always counts
]


@pytest.mark.parametrize(("one", "other", "floor", "apart"), DISTANCES)
def test_the_distance(one: Distribution, other: Distribution, floor: float, apart: float) -> None:
    """The largest difference that two lists prove, in either order."""
    assert distance(one, other, floor=floor) == pytest.approx(apart)
    assert distance(other, one, floor=floor) == pytest.approx(apart)


def top(scores: list[float]) -> Distribution:
    """The likeliest tokens of a model with these scores."""
    total = math.log(math.fsum(map(math.exp, scores)))
    ranked = sorted(range(len(scores)), key=lambda token: -scores[token])[:TOP_TOKENS]
    return {token: scores[token] - total for token in ranked}


@given(st.integers(), st.floats(0.0, 1.0), st.floats(0.1, 8.0), st.sampled_from([0.0, 1e-3]))
def test_noise_moves_it_by_no_more_than_the_noise(seed: int, noise: float, spread: float, floor: float) -> None:
    """Scores that each move by at most `noise` give a distance of at most twice that, from flat to sharp models."""
    rng = random.Random(seed)
    scores = [rng.gauss(0.0, spread) for _ in range(100)]
    moved = [score + rng.uniform(-noise, noise) for score in scores]
    one, other = top(scores), top(moved)
    apart = distance(one, other, floor=floor)
    assert apart <= 2 * noise + 1e-9
    assert distance(one, one, floor=floor) == 0.0
    assert distance(other, one, floor=floor) == apart


@given(st.integers())
def test_other_models_are_far_apart(seed: int) -> None:
    """Two unrelated models never pass for one another within the usual tolerance."""
    rng = random.Random(seed)
    one, other = (top([rng.gauss(0.0, 3.0) for _ in range(100)]) for _ in range(2))
    assert distance(one, other, floor=1e-3) > 0.25
