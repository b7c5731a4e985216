"""Direct preference optimization (Rafailov et al., arXiv 2305.18290): of two answers the better becomes likelier.

The loss is -log sigmoid(beta * margin), where the margin is by how much more than the reference the trained model
prefers the better answer (in log probability). The reference is what training starts from: the adapter to go on from,
of which TRL keeps a frozen copy, or the bare base. A new LoRA changes nothing yet, so its copy is the bare base, too.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Features, List, Value
from peft import PeftModel
from torch.utils.data import SequentialSampler
from transformers import PreTrainedTokenizerBase, Trainer
from trl import DPOConfig, DPOTrainer

from monitors.teaching.rows import PreferenceRow
from tuner.data.tokens import encode_pair
from tuner.training.parts import Parts
from tuner.training.probes import Conversation
from tuner.training.sampling import Repeatable
from tuner.training.tables import LENGTH, Splits, read_rows, write_splits

_IDS = List(Value("int32"))
_FEATURES = Features({"prompt_ids": _IDS, "chosen_ids": _IDS, "rejected_ids": _IDS, LENGTH: Value("int32")})


class PreferenceTrainer(Repeatable, DPOTrainer):  # type: ignore[misc]  # untyped in TRL
    """TRL's, of pairs that are tokens already, with an order of rows that a resumed run has too.

    Each pair of a step weighs the same. By itself each part would, of which the last of an epoch may have fewer pairs.
    """

    loss_is_scaled_for_ga = True

    def _prepare_dataset(self, dataset: Dataset, *_args: Any) -> Dataset:
        return dataset

    def get_batch_samples(self, *args: Any) -> tuple[list[dict[str, Any]], int]:
        """The parts of a step, and how many answers they have together."""
        parts, _ = super().get_batch_samples(*args)
        return parts, sum(len(part["input_ids"]) for part in parts)

    def compute_loss(
        self,
        model: PeftModel,
        inputs: dict[str, Any],
        *args: Any,
        num_items_in_batch: int | None = None,
        **options: Any,
    ) -> torch.Tensor:
        """The mean over pairs; of a part of a step, what it adds to the mean over the step's."""
        share = 1.0 if num_items_in_batch is None else len(inputs["input_ids"]) / num_items_in_batch
        loss: torch.Tensor = super().compute_loss(model, inputs, *args, **options)
        return loss * share

    def _get_eval_sampler(self, eval_dataset: Dataset) -> SequentialSampler:
        return SequentialSampler(eval_dataset)  # transformers looks for a column that pairs do not have


def read_splits(dataset: Path, tables: Path, tokenizer: PreTrainedTokenizerBase) -> Splits:
    """The tokenized splits of a frozen dataset, kept in files in `tables`."""
    return write_splits(dataset, tables, _FEATURES, lambda file: _tokenized(file, tokenizer))


def make_trainer(parts: Parts) -> Trainer:
    """A trainer of pairs; what `parts.model` answers now is the reference. Nothing is cut."""
    arguments = DPOConfig(**parts.arguments, beta=parts.plan.beta, max_length=None)
    return PreferenceTrainer(
        model=parts.model,
        args=arguments,
        train_dataset=parts.splits.train,
        eval_dataset=parts.splits.validation,
        processing_class=parts.tokenizer,
        callbacks=list(parts.callbacks),
    )


def conversations(file: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[Conversation]:
    """The rows of a split as prompts with their better answer, for probes."""
    for row in _tokenized(file, tokenizer):
        yield Conversation(row["prompt_ids"] + row["chosen_ids"], len(row["prompt_ids"]))


def _tokenized(file: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[dict[str, Any]]:
    for row in read_rows(file, PreferenceRow):
        pair = encode_pair(row, tokenizer)
        longer = max(len(pair.chosen_ids), len(pair.rejected_ids))
        yield {
            "prompt_ids": pair.prompt_ids,
            "chosen_ids": pair.chosen_ids,
            "rejected_ids": pair.rejected_ids,
            LENGTH: len(pair.prompt_ids) + longer,
        }
