"""A version's probes: what PEFT says comes next, so that every engine that loads the version can be held against it.

Each is a conversation of the holdout, which the version was not trained on, up to where the adapter and the base model
differ most in the answer: the first tokens are often the same whatever was trained. The numbers are those of the saved
files on the unquantized base model, as an engine computes them: float32 on a CPU, half precision on a GPU.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from registry.errors import InvalidAdapter
from registry.probes import PROBES_FILE, TOP_TOKENS, Probe, Probes, read_probes
from tuner.errors import JobFailed
from tuner.training.memory import release

KEPT = 4
CANDIDATES = 16
"""Conversations that are looked at, the shortest first."""
LONGEST = 512
"""Tokens of a prompt, at most; of a longer conversation its end is taken."""

_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Conversation:
    """Token ids of a prompt with its answer, which begins at `answer`."""

    tokens: Sequence[int]
    answer: int

    def end(self, longest: int) -> "Conversation":
        """Its last tokens, at least one of the prompt's before the answer where there is one."""
        cut = max(0, len(self.tokens) - longest)
        return Conversation(self.tokens[cut:], max(1, self.answer - cut))


@dataclass(frozen=True, slots=True)
class _Found:
    """A probe, and how far adapter and base are apart there (total variation, in [0, 1])."""

    apart: float
    probe: Probe


def write_probes(
    base_model: str, adapter: Path, conversations: Sequence[Conversation], *, device: str, context: int = 0
) -> bool:
    """Write probes.json beside the weights in `adapter`.

    Args:
        base_model: its folder or Hugging Face id.
        adapter: the folder of the saved adapter.
        conversations: with answers as the adapter was trained to give them.
        device: ``cpu`` or ``cuda``.
        context: tokens that the engine takes at most; 0 where nobody knows.

    Returns:
        Whether it could: false without a conversation, and where the unquantized base model does not fit into the
        device's memory.

    Raises:
        JobFailed: the adapter changes nothing.
    """
    longest = min(LONGEST, context or LONGEST) - 1
    answered = [each for each in conversations if each.answer < len(each.tokens)]
    chosen = sorted(answered, key=lambda each: len(each.tokens))[:CANDIDATES]
    if not chosen:
        return False
    dtype = _engine_dtype(device)
    release()  # of the trainer, whose model was perhaps a quantized one
    try:
        model = _load(base_model, adapter, device, dtype)
        found = [_probe(model, each.end(longest)) for each in chosen]
    except torch.OutOfMemoryError:
        return False
    best = sorted(found, key=lambda each: -each.apart)[:KEPT]  # the sort is stable: shorter ones first
    probes = Probes(format=1, dtype=dtype, probes=tuple(each.probe for each in best))
    (adapter / PROBES_FILE).write_bytes(msgspec.json.encode(probes) + b"\n")
    _require_sound(adapter)
    return True


def _engine_dtype(device: str) -> Literal["float32", "bfloat16", "float16"]:
    if device == "cpu":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def _load(base_model: str, adapter: Path, device: str, dtype: str) -> PeftModel:
    base = AutoModelForCausalLM.from_pretrained(base_model, dtype=getattr(torch, dtype)).to(device)
    # The adapter in the same precision, as the engine holds it.
    return PeftModel.from_pretrained(base, str(adapter), autocast_adapter_dtype=False).to(base.dtype).eval()


@torch.no_grad()
def _probe(model: PeftModel, conversation: Conversation) -> _Found:
    """The conversation up to the token of the answer on which adapter and base model differ most."""
    with model.disable_adapter():
        before = _logprobs(model, conversation)
    after = _logprobs(model, conversation)
    apart = (after.exp() - before.exp()).abs().sum(dim=-1) / 2
    at = int(apart.argmax())
    prompt = tuple(conversation.tokens[: conversation.answer + at])
    return _Found(float(apart[at]), Probe(prompt, _likeliest(after[at]), _likeliest(before[at])))


def _logprobs(model: PeftModel, conversation: Conversation) -> torch.Tensor:
    """[tokens of the answer, vocabulary], float32: what comes at each of the answer's places."""
    ids = torch.tensor([list(conversation.tokens)], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, conversation.answer - 1 : -1]
    return torch.log_softmax(logits.float(), dim=-1)


def _likeliest(logprobs: torch.Tensor) -> dict[int, float]:
    top = logprobs.topk(min(TOP_TOKENS, logprobs.numel()))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    # Rounding may lift a log probability of 0 above it.
    return {token: min(0.0, round(logprob, _DIGITS)) for token, logprob in pairs if math.isfinite(logprob)}


def _require_sound(adapter: Path) -> None:
    """The file must be one that a push takes."""
    try:
        read_probes(adapter)
    except InvalidAdapter as refused:
        message = f"the trained adapter cannot be told from the base model ({refused.message}); train longer or hotter"
        raise JobFailed("training_failed", message) from refused
