"""How likely a model holds an answer to be: the log probability of its tokens, asked through the gateway.

vLLM tells the log probability of each token of a prompt. So the whole conversation, the answer included, is sent as
a prompt that is to be continued, and once more without the answer: what the first has beyond the second are the
answer's tokens. Both are one token of work beyond reading the prompt.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monitors.watch.client import GatewayClient

_ONE_TOKEN: Mapping[str, Any] = {"max_tokens": 1, "temperature": 0, "return_token_ids": True}
_CONTINUED: Mapping[str, Any] = {
    "prompt_logprobs": 0,  # the tokens' own alone, without the most likely ones beside them
    "add_generation_prompt": False,
    "continue_final_message": True,
}
_LARGEST_EXPONENT = 700.0


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The log probability (nats) of an answer of so many tokens; the mark of its end is not among them."""

    logprob: float
    tokens: int

    @property
    def mean_logprob(self) -> float:
        """Per token, at most 0."""
        return self.logprob / self.tokens


async def likelihood(
    gateway: GatewayClient, model: str, prompt: Sequence[Mapping[str, Any]], answer: str, **fields: Any
) -> Likelihood | None:
    """The likelihood of `answer` to the messages of `prompt` under `model`.

    None where it cannot be told: the endpoint is not vLLM, or the model's template writes a question with its answer
    otherwise than the question that it asks. `fields` are further fields of the request that change how the prompt
    reads, such as `tools`.

    Raises:
        GatewayRefused
    """
    asked = list(prompt)
    before = await gateway.chat(model, asked, **_ONE_TOKEN, **fields)
    whole = [*asked, {"role": "assistant", "content": answer}]
    continued = await gateway.chat(model, whole, **_ONE_TOKEN, **_CONTINUED, **fields)
    return _of_the_answer(before.get("prompt_token_ids"), continued)


def perplexity(found: Sequence[Likelihood]) -> float | None:
    """Of several answers together, each token counting the same; None without any."""
    tokens = sum(each.tokens for each in found)
    if not tokens:
        return None
    return math.exp(min(-sum(each.logprob for each in found) / tokens, _LARGEST_EXPONENT))


def _of_the_answer(before: Any, continued: Mapping[str, Any]) -> Likelihood | None:
    """Add up the tokens' own log probabilities after those that the prompt has without the answer."""
    ids, logprobs = continued.get("prompt_token_ids"), continued.get("prompt_logprobs")
    if not (isinstance(before, list) and isinstance(ids, list) and isinstance(logprobs, list)):
        return None
    if not 0 < len(before) < len(ids) or len(logprobs) != len(ids) or ids[: len(before)] != before:
        return None
    own = [_own(found, token) for found, token in zip(logprobs[len(before) :], ids[len(before) :], strict=True)]
    known = [each for each in own if each is not None]
    return Likelihood(math.fsum(known), len(known)) if len(known) == len(own) else None


def _own(found: Any, token: Any) -> float | None:
    """What is told of the token that stands there; None if that is no finite number."""
    try:
        logprob = float(found[str(token)]["logprob"])
    except (KeyError, TypeError, ValueError):
        return None
    return logprob if math.isfinite(logprob) else None
