"""The order of rows: drawn anew in each epoch, rows of like length together, and the same however often training stops.

transformers draws it from the process' random numbers, of which a resumed process has seen fewer.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler

from tuner.training.tables import LENGTH


class RepeatableSampler(LengthGroupedSampler):  # type: ignore[misc]  # untyped in transformers
    """Groups rows by length, in an order that depends on the seed and the epoch alone.

    Args:
        batch: rows for each optimizer step, however many parts they go in.
        lengths: tokens of each row.
        epoch: says which epoch begins.
    """

    def __init__(self, batch: int, lengths: list[int], seed: int, epoch: Callable[[], int]) -> None:
        super().__init__(batch, lengths=lengths)
        self._seed = seed
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """The rows' numbers."""
        self.generator = torch.Generator().manual_seed(self._seed + self._epoch())
        return iter(super().__iter__())


class Repeatable:
    """Goes before a trainer among the bases of a class."""

    train_dataset: Any
    args: Any
    state: Any

    def _get_train_sampler(self, _dataset: Any = None) -> RepeatableSampler:
        args = self.args
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        lengths = list(self.train_dataset[LENGTH])
        steps = math.ceil(len(lengths) / batch)
        return RepeatableSampler(batch, lengths, args.seed, lambda: int(self.state.global_step) // steps)

    def create_model_card(self, *_args: Any, **_kwargs: Any) -> None:
        """Write none: checkpoints are for going on from, not for publishing."""

    def _send_telemetry(self) -> None:
        """Tell nobody what is trained here."""
