"""Supervised training: the loss is on the tokens of the assistant's answers alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Features, List, Value
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTConfig, SFTTrainer

from monitors.teaching.rows import SupervisedRow
from tuner.data.tokens import IGNORED, encode
from tuner.training.parts import Parts
from tuner.training.probes import Conversation
from tuner.training.sampling import Repeatable
from tuner.training.tables import LENGTH, Splits, read_rows, write_splits

_IDS = List(Value("int32"))
_FEATURES = Features({"input_ids": _IDS, "labels": _IDS, LENGTH: Value("int32")})


class SupervisedTrainer(Repeatable, SFTTrainer):  # type: ignore[misc]  # untyped in TRL
    """TRL's, with an order of rows that a resumed run has too, and a validation loss that is a mean over tokens.

    transformers takes the mean over batches, which says something else wherever rows go through in other parts: the
    best checkpoint and patience would depend on it.
    """

    def evaluation_loop(
        self, dataloader: DataLoader[Any], description: str, *, metric_key_prefix: str = "eval", **options: Any
    ) -> EvalLoopOutput:
        """Evaluate; ``eval_loss`` is in nats a token that is learned."""
        self._sums = torch.zeros(3, dtype=torch.float64)  # of losses, of right guesses, of tokens
        output = super().evaluation_loop(dataloader, description, metric_key_prefix=metric_key_prefix, **options)
        loss, right, tokens = self._sums.tolist()
        output.metrics[f"{metric_key_prefix}_loss"] = loss / tokens
        output.metrics[f"{metric_key_prefix}_mean_token_accuracy"] = right / tokens
        return output

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], *_args: Any, **_options: Any
    ) -> tuple[torch.Tensor, None, None]:
        """Add up the rows of a batch, of all processes; its loss alone is given back."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs, use_cache=False, fused_lm_head=True)  # as TRL computes the loss
        values = (-outputs.log_probs, outputs.is_top1, outputs.label_mask)  # 0 where nothing is learned
        rows = torch.stack([value.sum(dim=1).double() for value in values], dim=1)
        # By row, as rows that only fill the processes' last batch are left out.
        sums = self.accelerator.gather_for_metrics(rows).sum(dim=0)
        self._sums += sums.cpu()
        return sums[0] / sums[2], None, None


def read_splits(dataset: Path, tables: Path, tokenizer: PreTrainedTokenizerBase) -> Splits:
    """The tokenized splits of a frozen dataset, kept in files in `tables`."""
    return write_splits(dataset, tables, _FEATURES, lambda file: _tokenized(file, tokenizer))


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
