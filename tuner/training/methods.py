"""What differs from one method to the other; the rest of training is the same."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from transformers import PreTrainedTokenizerBase, Trainer

from registry.tuning.orders import Method
from tuner.training.parts import Parts
from tuner.training.probes import Conversation
from tuner.training.tables import Splits


class TrainingMethod(Protocol):
    """What the module of a method has."""

    def read_splits(self, dataset: Path, tables: Path, tokenizer: PreTrainedTokenizerBase) -> Splits:
        """The tokenized splits of a frozen dataset, kept in files in `tables`."""
        ...

    def make_trainer(self, parts: Parts) -> Trainer:
        """TRL's trainer, put together."""
        ...

    def conversations(self, file: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[Conversation]:
        """The rows of a split as prompts with the answer that is wanted, for probes."""
        ...


def method_of(name: Method) -> TrainingMethod:
    """The module of a method."""
    # Imported here, because each loads its own trainer of TRL's.
    if name == "dpo":
        from tuner.training import preference

        return preference
    from tuner.training import supervised

    return supervised
