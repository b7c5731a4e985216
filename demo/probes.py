"""The versions' probes: what PEFT says comes next, so that an engine can be held against it.

Each prompt is a ticket with the answer begun, up to where the adapter and the base choose differently: their first
token is always the same brace.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from demo.pretrain import load_base
from demo.tickets import Ticket

__all__ = ["write_probes"]

TOP_TOKENS = 20  # as many as vLLM gives
BEGUN = '{"intent":"'

Distribution = dict[str, float]


def write_probes(base: Path, tokenizer: PreTrainedTokenizerFast, tickets: Sequence[Ticket], folder: Path) -> None:
    """Write probes.json beside the weights in `folder`: one probe for each ticket, computed in float32."""
    prompts = [_prompt(tokenizer, ticket) for ticket in tickets]
    # 1. The base alone.
    model = load_base(base).eval()
    alone = [_next_tokens(model, prompt) for prompt in prompts]
    # 2. The base with the adapter, which PEFT puts into the same model.
    adapted = PeftModel.from_pretrained(model, str(folder)).eval()
    probes = [
        {"tokens": prompt, "logprobs": _next_tokens(adapted, prompt), "base_logprobs": before}
        for prompt, before in zip(prompts, alone, strict=True)
    ]
    # 3. The file; a few decimals are plenty and keep it small.
    content = {"format": 1, "dtype": "float32", "probes": probes}
    (folder / "probes.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")


def _prompt(tokenizer: PreTrainedTokenizerFast, ticket: Ticket) -> list[int]:
    question: list[int] = tokenizer.apply_chat_template(
        [{"role": "user", "content": ticket.message}], add_generation_prompt=True
    )["input_ids"]
    begun: list[int] = tokenizer(BEGUN, add_special_tokens=False)["input_ids"]
    return question + begun


def _next_tokens(model: LlamaForCausalLM | PeftModel, prompt: list[int]) -> Distribution:
    with torch.no_grad():
        logits: Any = model(input_ids=torch.tensor([prompt])).logits[0, -1]
    top = torch.log_softmax(logits.float(), dim=-1).topk(TOP_TOKENS)
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return {str(token): round(logprob, 6) for token, logprob in pairs}
