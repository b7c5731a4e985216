"""Direct preference optimization (Rafailov et al., arXiv 2305.18290): of two answers the better becomes likelier.

The loss is -log sigmoid(beta * margin), where the margin is by how much more than the reference the trained model
prefers the better answer (in log probability). The reference is what training starts from: the adapter to go on from,
of which TRL keeps a frozen copy, or the bare base. A new LoRA changes nothing yet, so its copy is the bare base, too.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value
from torch.utils.data import SequentialSampler
from transformers import PreTrainedTokenizerBase, Trainer
from trl import DPOConfig, DPOTrainer

from tuner.data.rows import PreferenceRow
from tuner.data.tokens import encode_pair
from tuner.training.parts import Parts
from tuner.training.probes import Conversation
from tuner.training.sampling import Repeatable
from tuner.training.tables import LENGTH, Splits, read_rows, write_table

_IDS = List(Value("int32"))
_FEATURES = Features({"prompt_ids": _IDS, "chosen_ids": _IDS, "rejected_ids": _IDS, LENGTH: Value("int32")})


class PreferenceTrainer(Repeatable, DPOTrainer):  # type: ignore[misc]  # untyped in TRL
    """TRL's, of pairs that are tokens already, with an order of rows that a resumed run has too."""

    def _prepare_dataset(self, dataset: Dataset, *_args: Any) -> Dataset:
        return dataset

    def _get_eval_sampler(self, eval_dataset: Dataset) -> SequentialSampler:
        return SequentialSampler(eval_dataset)  # transformers looks for a column that pairs do not have


def read_splits(dataset: Path, tables: Path, tokenizer: PreTrainedTokenizerBase) -> Splits:
    """The tokenized splits of a frozen dataset, kept in files in `tables`."""
    train, validation = (
        write_table(tables / f"{name}.arrow", _FEATURES, _tokenized(dataset / f"{name}.jsonl", tokenizer))
        for name in ("train", "validation")
    )
    if train is None:
        raise ValueError("the training split is empty")
    return Splits(train, validation)


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
