"""Which prompts are trained on, which tell when to stop, and which are held out for the gate.

Decided by the hash of the prompt, so the same prompt has the same split in every file, as far as shares allow: within
each label the lowest hashes are held out, the next ones validate. Each split has each label in proportion (largest
remainders). A prompt has one split, whatever its answers.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import floor
from typing import Literal

Split = Literal["train", "validation", "holdout"]
SPLITS: tuple[Split, ...] = ("train", "validation", "holdout")
RULE = "lowest hash of the normalized prompt (blake2b-128) within each label; first holdout, then validation"


@dataclass(frozen=True, slots=True)
class Shares:
    """What part of the prompts, each from 0 to below 1."""

    validation: float
    holdout: float


def split_prompts(
    labels: Mapping[bytes, str],
    shares: Shares,
    fixed: Mapping[bytes, Split],
    not_held_out: Collection[bytes] = (),
) -> dict[bytes, Split]:
    """The split of each prompt.

    Args:
        labels: each prompt's hash with its label; empty where it has none.
        shares: of all prompts; one that is above 0 gives at least one prompt, where there is one to give.
        fixed: prompts whose split is decided already; they count towards the shares.
        not_held_out: prompts that an earlier version was trained on, which say nothing about what it can do.
    """
    groups: dict[str, list[bytes]] = defaultdict(list)
    for prompt in sorted(labels):
        groups[labels[prompt]].append(prompt)
    splits: dict[bytes, Split] = {prompt: fixed[prompt] for prompt in labels if prompt in fixed}
    _fill("holdout", shares.holdout, groups, splits, set(not_held_out))
    _fill("validation", shares.validation, groups, splits, set())
    return {prompt: splits.get(prompt, "train") for prompt in labels}


def _fill(
    split: Split, share: float, groups: Mapping[str, list[bytes]], splits: dict[bytes, Split], barred: set[bytes]
) -> None:
    """Give a split what it lacks of its share, from each label its part."""
    free = {
        label: [prompt for prompt in prompts if prompt not in splits and prompt not in barred]
        for label, prompts in groups.items()
    }
    has = {label: sum(splits.get(prompt) == split for prompt in prompts) for label, prompts in groups.items()}
    parts = _parts(share, {label: len(prompts) for label, prompts in groups.items()}, groups)
    for label, part in parts.items():
        splits.update(dict.fromkeys(free[label][: max(0, part - has[label])], split))
    if share > 0 and split not in splits.values():  # the labels whose turn it was had none to give
        splits.update(dict.fromkeys(sorted(prompt for prompts in free.values() for prompt in prompts)[:1], split))


def _parts(share: float, sizes: Mapping[str, int], groups: Mapping[str, list[bytes]]) -> dict[str, int]:
    """How many prompts of each label make up a share of all, by largest remainders; ties go by hash."""
    total = sum(sizes.values())
    wanted = max(floor(share * total + 0.5), 1 if share > 0 else 0)
    parts = {label: floor(share * size) for label, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda label: (parts[label] - share * sizes[label], groups[label][0]))
    for label in by_remainder[: max(0, wanted - sum(parts.values()))]:
        parts[label] += 1
    return parts
