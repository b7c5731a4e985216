"""Supervised training: the loss is on the tokens of the assistant's answers alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Features, List, Value
from transformers import PreTrainedTokenizerBase, Trainer
from trl import SFTConfig, SFTTrainer

from tuner.data.rows import SupervisedRow
from tuner.data.tokens import IGNORED, encode
from tuner.training.parts import Parts
from tuner.training.probes import Conversation
from tuner.training.sampling import Repeatable
from tuner.training.tables import LENGTH, Splits, read_rows, write_table

_IDS = List(Value("int32"))
_FEATURES = Features({"input_ids": _IDS, "labels": _IDS, LENGTH: Value("int32")})


class SupervisedTrainer(Repeatable, SFTTrainer):  # type: ignore[misc]  # untyped in TRL
    """TRL's, with an order of rows that a resumed run has too."""


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
    """A trainer of rows that are tokens already: nothing is cut, and nothing but the given labels is learned."""
    arguments = SFTConfig(
        **parts.arguments, label_names=["labels"], max_length=None, dataset_kwargs={"skip_prepare_dataset": True}
    )
    return SupervisedTrainer(
        model=parts.model,
        args=arguments,
        train_dataset=parts.splits.train,
        eval_dataset=parts.splits.validation,
        processing_class=parts.tokenizer,
        callbacks=list(parts.callbacks),
    )


def conversations(file: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[Conversation]:
    """The rows of a split as prompts with their last answer, for probes."""
    for row in _tokenized(file, tokenizer):
        ids, labels = row["input_ids"], row["labels"]
        answer = len(labels)
        while answer and labels[answer - 1] == IGNORED:
            answer -= 1  # what the template puts behind the answer
        end = answer
        while answer and labels[answer - 1] != IGNORED:
            answer -= 1
        if 0 < answer < end:
            yield Conversation(ids[:end], answer)


def _tokenized(file: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[dict[str, Any]]:
    for row in read_rows(file, SupervisedRow):
        encoded = encode(row, tokenizer)
        ids = list(encoded.input_ids)
        yield {"input_ids": ids, "labels": list(encoded.labels), LENGTH: len(ids)}
