"""What "auto" stands for: the rules that choose a hyperparameter that nobody gave.

Each is a pure function with its source. They are starting points that were found on common models and tasks, not
optima; the validation loss of a job says whether they suit it.
"""

import math

_ANCHOR_RATE = 2e-4
_ANCHOR_HIDDEN = 4096  # of the 7B Llama
_RATE_EXPONENT = 0.78
_DPO_SHARE = 1 / 40
_SCALE = 2.0
_EPOCHS, _MOST_EPOCHS = 3, 25
_LEAST_EXAMPLES = 100
_BATCH = 16
_LEAST_STEPS = 20
_WARMUP_SHARE, _MOST_WARMUP = 0.03, 100


def learning_rate(hidden_size: int) -> float:
    """The peak rate of LoRA for a model of that width: 2e-4 * (4096 / hidden_size)^0.78.

    The anchor is QLoRA's (Dettmers et al., arXiv 2305.14314: 2e-4 for 7B and 13B, 1e-4 for 33B and 65B). The exponent
    is what Schulman et al. ("LoRA Without Regret", 2025) fitted for Llama, 0.781; they found the best rate nearly
    independent of the rank. Other families differ: for Qwen they fitted nearly no dependence on the width.
    """
    return _ANCHOR_RATE * math.pow(_ANCHOR_HIDDEN / hidden_size, _RATE_EXPONENT)


def preference_learning_rate(hidden_size: int) -> float:
    """The peak rate of DPO: a 40th of the supervised one, 5e-6 for a 7B, as in Zephyr's QLoRA recipe."""
    return learning_rate(hidden_size) * _DPO_SHARE


def beta() -> float:
    """How much a distance from the reference costs in DPO: 0.1 (Rafailov et al., arXiv 2305.18290)."""
    return 0.1


def rank() -> int:
    """LoRA's r: 16, which is the most that vLLM serves unless it is told otherwise."""
    return 16


def alpha(rank: int, *, rslora: bool) -> float:
    """LoRA's alpha, such that updates are scaled by 2 whatever the rank: 2 r, with rsLoRA 2 sqrt(r).

    The scale is alpha / r (Hu et al., arXiv 2106.09685), with rsLoRA alpha / sqrt(r) (Kalajdzievski, arXiv 2312.03732).
    """
    return _SCALE * (math.sqrt(rank) if rslora else rank)


def epochs(rows: int) -> int:
    """Passes over the rows: 3, as is usual for LoRA; more for few rows, so that 100 are seen, but at most 25."""
    return min(_MOST_EPOCHS, max(_EPOCHS, math.ceil(_LEAST_EXAMPLES / rows)))


def batch_size(rows: int) -> int:
    """Rows for each optimizer step: 16 (QLoRA's), fewer for small sets, so that an epoch has at least 20 steps.

    A power of two, so that it can be halved until it fits in memory.
    """
    most = min(_BATCH, max(1, rows // _LEAST_STEPS))
    return 1 << (most.bit_length() - 1)


def warmup_steps(steps: int) -> int:
    """Steps until the peak rate: 3% of all (QLoRA's share), at least 1, at most 100, and never all of them.

    The first of them has a rate of 0, with which a training of a single step would learn nothing.
    """
    return min(_MOST_WARMUP, max(1, round(_WARMUP_SHARE * steps)), steps - 1)
