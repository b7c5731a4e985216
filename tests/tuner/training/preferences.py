"""A small set of preferences of the demo's, and how far a model shares them.

A support desk wants no ticket noted as of low urgency any more: what was low shall be medium. All else stays right.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from demo.tickets import FIELDS, Ticket, training
from tests.tuner.works import BASE_MODEL


@dataclass(frozen=True)
class Pair:
    """A ticket with the answer that is wanted, and with one that says that its urgency is low."""

    prompt: str
    preferred: str
    other: str

    @property
    def row(self) -> dict[str, Any]:
        """A row of OpenAI's format for preferences."""
        return {
            "input": {"messages": [{"role": "user", "content": self.prompt}]},
            "preferred_output": [{"role": "assistant", "content": self.preferred}],
            "non_preferred_output": [{"role": "assistant", "content": self.other}],
        }


@dataclass(frozen=True)
class Share:
    """How far a model shares preferences.

    Attributes:
        margin: mean log probability (nats a token) of the preferred answer beyond that of the other.
        likelier: the share of pairs whose preferred answer is the likelier one, a token.
        answered: the share of prompts that it answers with the wanted urgency, greedily.
    """

    margin: float
    likelier: float
    answered: float


def pairs(n: int, seed: int) -> list[Pair]:
    """`n` pairs, of tickets as the versions know them; another seed gives other tickets."""
    return [_pair(ticket) for ticket in training(n, seed)]


def write_dataset(folder: Path, **splits: Sequence[Pair]) -> None:
    """A frozen dataset's files, as far as training reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "validation", "holdout"):
        lines = [json.dumps(pair.row) + "\n" for pair in splits.get(name, ())]
        (folder / f"{name}.jsonl").write_text("".join(lines))


def share(given: Sequence[Pair], adapter: Path | None) -> Share:
    """How far the demo's base model shares preferences, with an adapter or alone."""
    model: Any = AutoModelForCausalLM.from_pretrained(BASE_MODEL, dtype=torch.float32).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter)).eval()
    tokenizer = AutoTokenizer.from_pretrained(BASE_MODEL)
    prompts = [_ids(tokenizer, pair.prompt) for pair in given]
    better = _mean_logprobs(model, tokenizer, prompts, [pair.preferred for pair in given])
    worse = _mean_logprobs(model, tokenizer, prompts, [pair.other for pair in given])
    margins = better - worse
    answers = [_answer(model, tokenizer, prompt) for prompt in prompts]
    right = [_urgency(answer) == _urgency(pair.preferred) for answer, pair in zip(answers, given, strict=True)]
    return Share(margins.mean().item(), (margins > 0).float().mean().item(), sum(right) / len(right))


def _pair(ticket: Ticket) -> Pair:
    wanted = "medium" if ticket.urgency == "low" else ticket.urgency
    return Pair(ticket.message, _answer_with(ticket, wanted), _answer_with(ticket, "low"))


def _answer_with(ticket: Ticket, urgency: str) -> str:
    labels = {name: getattr(ticket, name) for name in FIELDS} | {"urgency": urgency}
    return json.dumps(labels, separators=(",", ":"))


def _urgency(answer: str) -> str:
    return answer.rpartition('"urgency":')[2]


def _ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    asked = [{"role": "user", "content": prompt}]
    found: list[int] = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    return found


@torch.no_grad()
def _mean_logprobs(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[int]], answers: Sequence[str]
) -> torch.Tensor:
    means = []
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens = tokenizer(answer + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        logits = model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        means.append(torch.log_softmax(logits, dim=-1)[range(len(tokens)), tokens].mean())
    return torch.stack(means)


def _answer(model: Any, tokenizer: PreTrainedTokenizerBase, prompt: list[int]) -> str:
    ids = torch.tensor([prompt])
    found = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False, pad_token_id=0
    )
    text: str = tokenizer.decode(found[0, len(prompt) :], skip_special_tokens=True)
    return text
