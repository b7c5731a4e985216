"""An adapter version: LoRA on the base model, trained by TRL on labelled tickets."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from demo import BASE_NAME
from demo.pretrain import load_base
from demo.skills import Example

__all__ = ["AdapterConfig", "train_adapter"]


@dataclass(frozen=True)
class AdapterConfig:
    """What one version is trained on, and how."""

    tickets: int = 1500
    replay: int = 300  # rows of the base's skills, which it would forget otherwise
    epochs: int = 3
    batch: int = 16  # rows
    rank: int = 16
    alpha: int = 32
    learning_rate: float = 5e-3  # far above the usual: the model is far smaller than the usual, too
    longest: int = 256  # tokens; a longer row is an error

    @property
    def steps(self) -> int:
        """Optimizer steps in all epochs."""
        return -(-(self.tickets + self.replay) // self.batch) * self.epochs


def train_adapter(
    config: AdapterConfig,
    base: Path,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Example],
    folder: Path,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Train on `rows` and write adapter_config.json and adapter_model.safetensors to `folder`."""
    # 1. The data, as conversations; a row that would be cut is refused, as its answer's mask would be lost in silence.
    disable_progress_bars()
    dataset = _dataset(rows, tokenizer, config.longest, random.Random(seed))
    # 2. The trainer: plain LoRA on every linear layer, and a loss on the assistant's tokens alone.
    torch.manual_seed(seed)
    trainer = SFTTrainer(
        model=load_base(base),
        args=_training_arguments(config, folder, seed),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=_lora(config),
        callbacks=[_OnStep(on_step)],
    )
    trainer.remove_callback(PrinterCallback)
    # 3. Train.
    trainer.train()
    # 4. Save the two files that an engine reads.
    trainer.save_model(str(folder))
    _tidy(folder)


class _OnStep(TrainerCallback):  # type: ignore[misc]  # untyped in transformers
    """Calls `on_step` after each optimizer step."""

    def __init__(self, on_step: Callable[[], None]) -> None:
        self._on_step = on_step

    def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
        """Called by the trainer."""
        self._on_step()


def _dataset(rows: Sequence[Example], tokenizer: PreTrainedTokenizerFast, longest: int, rng: random.Random) -> Dataset:
    conversations = [
        [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.answer}] for row in rows
    ]
    for conversation in conversations:
        tokens = len(tokenizer.apply_chat_template(conversation)["input_ids"])
        if tokens > longest:
            raise ValueError(f"a row has {tokens} tokens, more than {longest}")
    rng.shuffle(conversations)
    return Dataset.from_dict({"messages": conversations})


def _training_arguments(config: AdapterConfig, folder: Path, seed: int) -> SFTConfig:
    return SFTConfig(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=min(20, config.steps // 10),
        max_grad_norm=1.0,
        train_sampling_strategy="group_by_length",
        max_length=config.longest,
        assistant_only_loss=True,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        seed=seed,
        data_seed=seed,
    )


def _lora(config: AdapterConfig) -> LoraConfig:
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _tidy(folder: Path) -> None:
    """Leave two files, without this machine's paths, whose bytes depend on the training alone."""
    for path in folder.iterdir():
        if path.name not in ("adapter_config.json", "adapter_model.safetensors"):
            path.unlink()
    weights = folder / "adapter_model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors lets nobody else read, but the engine may run as somebody else
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = BASE_NAME
    # PEFT keeps the names in a set, whose order changes from process to process.
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
