"""The base model: a small Llama, trained from scratch on generated examples."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from demo.skills import Example

__all__ = ["BaseConfig", "load_base", "save_base", "train_base"]


@dataclass(frozen=True)
class BaseConfig:
    """Sizes of the base model and of its training."""

    vocabulary: int = 1536
    context: int = 512  # tokens
    hidden: int = 192
    layers: int = 4
    mlp: int = 512
    heads: int = 6
    kv_heads: int = 3
    examples: int = 65_000  # each is seen once
    batch: int = 96  # examples
    matrix_learning_rate: float = 0.02  # Muon
    other_learning_rate: float = 6e-3  # AdamW
    warmup_steps: int = 40
    decay_share: float = 0.6  # the last part of the training, over which the learning rate falls to nothing
    prompt_weight: float = 0.1  # of the loss on a prompt's tokens; an answer's tokens weigh 1

    @property
    def steps(self) -> int:
        """Optimizer steps in one pass over the examples."""
        return self.examples // self.batch


@dataclass(frozen=True)
class Batch:
    """Right-padded token ids and the weight of each in the loss, both (examples, tokens)."""

    ids: torch.Tensor
    weights: torch.Tensor


def train_base(
    config: BaseConfig,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    seed: int,
    on_step: Callable[[float], None] = lambda _loss: None,
) -> LlamaForCausalLM:
    """Train on `examples` in one pass and return the model in bfloat16, as it ships; `on_step` gets each loss."""
    # 1. The data: batches of similar length, in random order.
    batches = _batches(config, tokenizer, examples, random.Random(seed))
    # 2. The model.
    torch.manual_seed(seed)
    model = LlamaForCausalLM(_llama_config(config, tokenizer)).train()
    # 3. The optimizers: Muon for the matrices between embedding and logits, AdamW for all else.
    optimizers = _optimizers(model, config)
    schedulers = [torch.optim.lr_scheduler.LambdaLR(each, lambda step: _schedule(step, config)) for each in optimizers]
    # 4. One pass.
    for batch in batches:
        loss = _loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
        model.zero_grad()
        on_step(loss.item())
    return model.to(torch.bfloat16).eval()


def save_base(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors to `folder`."""
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=64
    )
    model.save_pretrained(str(folder))
    (folder / "model.safetensors").chmod(0o644)  # the engine may run as somebody else


def load_base(folder: Path) -> LlamaForCausalLM:
    """The base as an engine serves it: the weights that ship, computed with in float32."""
    return LlamaForCausalLM.from_pretrained(str(folder), dtype=torch.float32)


def _llama_config(config: BaseConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.hidden,
        intermediate_size=config.mlp,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=config.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _batches(
    config: BaseConfig, tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example], rng: random.Random
) -> list[Batch]:
    """Sorting by length saves most of the padding; a shuffle before it mixes what is equally long."""
    rows = _tokenize(tokenizer, examples)
    rng.shuffle(rows)
    rows.sort(key=lambda row: len(row[0]) + len(row[1]))
    starts = list(range(0, len(rows) - config.batch + 1, config.batch))
    rng.shuffle(starts)
    return [_pad(rows[start : start + config.batch], tokenizer, config.prompt_weight) for start in starts]


def _tokenize(tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]) -> list[tuple[list[int], list[int]]]:
    """Token ids of the prompt, as the chat template renders it, and of the answer with its end."""
    conversations = [[{"role": "user", "content": example.prompt}] for example in examples]
    prompts = tokenizer.apply_chat_template(conversations, tokenize=False, add_generation_prompt=True)
    answers = [f"{example.answer}{tokenizer.eos_token}" for example in examples]
    return list(zip(tokenizer(prompts)["input_ids"], tokenizer(answers)["input_ids"], strict=True))


def _pad(rows: Sequence[tuple[list[int], list[int]]], tokenizer: PreTrainedTokenizerFast, weight: float) -> Batch:
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    weights = torch.zeros(len(rows), longest)
    for i, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[i, :end] = torch.tensor(prompt + answer)
        weights[i, : len(prompt)] = weight
        weights[i, len(prompt) : end] = 1.0
    return Batch(ids, weights)


def _optimizers(model: LlamaForCausalLM, config: BaseConfig) -> list[torch.optim.Optimizer]:
    matrices = [parameter for parameter in model.model.layers.parameters() if parameter.ndim == 2]
    chosen = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=config.matrix_learning_rate, weight_decay=0.01),
        torch.optim.AdamW(others, lr=config.other_learning_rate, weight_decay=0.0, betas=(0.9, 0.95)),
    ]


def _schedule(step: int, config: BaseConfig) -> float:
    """The factor on the learning rate: a linear rise, a plateau, a linear fall."""
    rise = (step + 1) / config.warmup_steps
    fall = (config.steps - step) / (config.steps * config.decay_share)
    return min(rise, fall, 1.0)


def _loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """The weighted mean over tokens. No attention mask: padding is on the right, where no token looks."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=batch.ids[:, :-1], use_cache=False).logits
    losses = functional.cross_entropy(logits.float().flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none")
    weights = batch.weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()
