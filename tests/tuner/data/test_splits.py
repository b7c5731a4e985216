"""Splits: what always holds of them, whatever the prompts."""

import hashlib
import math
import random
from collections import Counter

from hypothesis import assume, given
from hypothesis import strategies as st

from tuner.data.splits import Shares, Split, split_prompts

LABELS = st.sampled_from(["", "refund", "delivery", "login"])
PROMPTS = st.dictionaries(st.binary(min_size=16, max_size=16), LABELS, min_size=1, max_size=200)
SHARES = st.builds(Shares, st.floats(0, 0.4), st.floats(0.01, 0.4))


def prompts(count: int, labels: tuple[str, ...] = ("",)) -> dict[bytes, str]:
    """Prompts of some labels, each drawn with half the chance of the one before."""
    rng = random.Random(1)
    drawn = rng.choices(labels, [0.5**place for place in range(len(labels))], k=count)
    return {hashlib.blake2b(f"{number}".encode(), digest_size=16).digest(): label for number, label in enumerate(drawn)}


@given(PROMPTS, SHARES, st.randoms())
def test_the_order_of_prompts_changes_nothing(labels: dict[bytes, str], shares: Shares, rng: random.Random) -> None:
    """Each prompt has one split, which depends on the set of prompts alone."""
    splits = split_prompts(labels, shares, {})
    shuffled = list(labels.items())
    rng.shuffle(shuffled)
    assert split_prompts(dict(shuffled), shares, {}) == splits
    assert splits.keys() == labels.keys()


@given(PROMPTS, SHARES)
def test_each_label_has_its_part_of_each_split(labels: dict[bytes, str], shares: Shares) -> None:
    """A label's part of what is held out differs from its share by less than one prompt, and the sum is the share."""
    splits = split_prompts(labels, shares, {})
    sizes = Counter(labels.values())
    held_out = Counter(labels[prompt] for prompt, split in splits.items() if split == "holdout")
    for label, size in sizes.items():
        assert abs(held_out[label] - shares.holdout * size) < 1 or held_out.total() == 1
    assert held_out.total() == max(1, math.floor(shares.holdout * len(labels) + 0.5))


@given(PROMPTS, SHARES, st.data())
def test_what_is_decided_stays_decided(labels: dict[bytes, str], shares: Shares, data: st.DataObject) -> None:
    """Prompts with a split keep it, and none that was trained on before is held out."""
    fixed: dict[bytes, Split] = data.draw(
        st.dictionaries(st.sampled_from(sorted(labels)), st.sampled_from(["holdout", "validation"]), max_size=20)
    )
    trained = set(data.draw(st.lists(st.sampled_from(sorted(labels)), max_size=50))) - fixed.keys()
    splits = split_prompts(labels, shares, fixed, trained)
    assert all(splits[prompt] == split for prompt, split in fixed.items())
    assert all(splits[prompt] != "holdout" for prompt in trained)


@given(PROMPTS, SHARES)
def test_what_was_held_out_is_so_again(labels: dict[bytes, str], shares: Shares) -> None:
    """The same prompts with what was held out of them fixed are split the same way again."""
    assume(len(labels) > 1)
    first = split_prompts(labels, shares, {})
    held_out: dict[bytes, Split] = {prompt: split for prompt, split in first.items() if split == "holdout"}
    trained = [prompt for prompt, split in first.items() if split == "train"]
    assert split_prompts(labels, shares, held_out, trained) == first


def test_a_file_that_grows_keeps_most_splits() -> None:
    """Of prompts that are there still, few change their split when a quarter as many come in."""
    before, after = prompts(800), prompts(1000)
    shares = Shares(0.1, 0.1)
    first, second = split_prompts(before, shares, {}), split_prompts(after, shares, {})
    changed = sum(first[prompt] != second[prompt] for prompt in before)
    assert changed < 40


def test_rare_labels_do_not_empty_the_holdout() -> None:
    """Where each label has a prompt or two, the share of all is held out nevertheless."""
    labels = prompts(100)
    own = {prompt: f"label {number // 2}" for number, prompt in enumerate(labels)}
    splits = Counter(split_prompts(own, Shares(0.1, 0.1), {}).values())
    assert splits == {"train": 80, "validation": 10, "holdout": 10}


def test_no_share_for_validation_gives_none() -> None:
    """A share of nothing takes no prompt."""
    assert "validation" not in split_prompts(prompts(100), Shares(0.0, 0.1), {}).values()


def test_labels_are_in_proportion() -> None:
    """Of labels that are not equally frequent each has its tenth held out."""
    labels = prompts(1000, ("often", "at times", "seldom"))
    splits = split_prompts(labels, Shares(0.1, 0.1), {})
    sizes = Counter(labels.values())
    held_out = Counter(labels[prompt] for prompt, split in splits.items() if split == "holdout")
    assert all(abs(held_out[label] - sizes[label] / 10) < 1 for label in sizes)
