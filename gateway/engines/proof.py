"""The proof that a loaded version acts, and acts as it was trained: an engine may load an adapter and do nothing.

What is compared are log probabilities of the next token, by `registry.probes.distance`.

- A version with probes must agree with them on every prompt, and the engine's base model with what was stored of it.
- Every version must differ from the engine's base model on one prompt at least.

**Rounding.** In float32 the same weights differ by about 1e-5 between PEFT and vLLM, in bfloat16 by about 0.1, and from
request to request with what else is in the batch. So agreement has a tolerance and leaves unlikely tokens out, which
rounding moves most. And the base is asked each prompt twice, among the others and alone: only what exceeds the larger
of the least difference and twice the distance between these two answers counts as a difference.

What this cannot tell apart are two versions that lie within the tolerance of each other.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gateway.engines.engine import Engine
from gateway.engines.failures import EngineLate, EngineRefused
from registry.probes import Distribution, Probes, distance

Prompt = tuple[int, ...] | str

GENERIC_PROMPTS: tuple[Prompt, ...] = (
    "User: Hello, I need help with my order.\nAssistant:",
    "The three most important things about",
    'Answer in JSON.\n{"',
    "def main():\n    ",
    "Question: What is the capital of France?\nAnswer:",
    "Dear Sir or Madam,\n",
)
"""What a version without probes is asked: of several kinds, as an adapter may change only some."""

LIKELY = 1e-3
"""Tokens less probable than this on both sides are left out where two answers must agree."""
_NOISE_FACTOR = 2.0
_MOST_KEPT = 4096  # prompts whose answers by the base are kept, about 2 kB each
_UNPROCESSABLE = 422


@dataclass(frozen=True, slots=True)
class Proof:
    """A version that passed, and by how much; all distances are of log probabilities.

    Attributes:
        kind: whether it was held against its probes and the base, or against the base alone.
        prompts: how many were asked.
        distance: the largest to the stored numbers; None without probes.
        difference: the largest to the base's answers.
        noise: the largest between two answers of the base to one prompt.
        tolerance: what `distance` may be.
    """

    kind: Literal["probes", "base"]
    prompts: int
    distance: float | None
    difference: float
    noise: float
    tolerance: float


@dataclass(frozen=True, slots=True)
class _BaseAnswer:
    """What the base says to one prompt, and how far it was from that when it was asked again."""

    logprobs: Distribution
    noise: float


class Prover:
    """Proves versions in one engine, whose base model's answers it remembers.

    Args:
        tolerance: how far an answer may lie from the stored one.
        min_difference: how far a version's answers must lie from the base's.
    """

    def __init__(self, tolerance: float, min_difference: float) -> None:
        self._tolerance = tolerance
        self._min_difference = min_difference
        self._base: dict[Prompt, _BaseAnswer] = {}

    def forget(self) -> None:
        """The engine is another one now, perhaps with another base model: ask it anew."""
        self._base = {}  # a new one: a proof that is under way goes on with the old

    async def prove(self, engine: Engine, name: str, probes: Probes | None, timeout_s: float) -> Proof:
        """Hold the version that `engine` has loaded as `name` against its probes and the base model.

        Args:
            engine: where it is loaded.
            name: the version's engine name.
            probes: those that it was stored with.
            timeout_s: for all requests together.

        Raises:
            EngineDown: `EngineLate`, if it took too long.
            EngineRefused: it failed, as the reason says in plain words, or the engine did not answer as asked.
        """
        prompts = tuple(probe.tokens for probe in probes.probes) if probes else GENERIC_PROMPTS
        try:
            async with asyncio.timeout(timeout_s):
                base = await self._ask_base(engine, prompts, timeout_s)
                answers = await engine.logprobs(name, prompts, timeout_s)
            return self._judge(answers, base, probes)
        except TimeoutError:
            raise EngineLate from None
        except EngineRefused:
            for prompt in prompts:  # so that the next try does not build on an answer that may have been wrong
                self._base.pop(prompt, None)
            raise

    def _judge(self, answers: Sequence[Distribution], base: Sequence[_BaseAnswer], probes: Probes | None) -> Proof:
        if probes:
            self._require_base(base, probes)
        noise = max(answer.noise for answer in base)
        difference = self._require_effect(answers, base, noise)
        return Proof(
            kind="probes" if probes else "base",
            prompts=len(answers),
            distance=self._require_agreement(answers, probes) if probes else None,
            difference=difference,
            noise=noise,
            tolerance=self._tolerance,
        )

    async def _ask_base(self, engine: Engine, prompts: Sequence[Prompt], timeout_s: float) -> list[_BaseAnswer]:
        if len(self._base) > _MOST_KEPT:
            self.forget()
        known = self._base
        found = {prompt: known[prompt] for prompt in prompts if prompt in known}
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in found]
        together = await engine.logprobs(engine.base, new, timeout_s) if new else []
        for prompt, first in zip(new, together, strict=True):
            # Alone, as what shares a batch with a prompt changes how its numbers are rounded.
            (again,) = await engine.logprobs(engine.base, [prompt], timeout_s)
            found[prompt] = known[prompt] = _BaseAnswer(first, distance(first, again))
        return [found[prompt] for prompt in prompts]

    def _require_base(self, base: Sequence[_BaseAnswer], probes: Probes) -> None:
        apart = _farthest([each.logprobs for each in base], [probe.base_logprobs for probe in probes.probes])
        if apart > self._tolerance:
            words = "the engine's base model is not the one that the version was trained on"
            _refuse(f"{words}: their log probabilities are {apart:.3g} apart, allowed {self._tolerance:g}")

    def _require_effect(self, answers: Sequence[Distribution], base: Sequence[_BaseAnswer], noise: float) -> float:
        difference = max(distance(mine, other.logprobs) for mine, other in zip(answers, base, strict=True))
        needed = max(self._min_difference, _NOISE_FACTOR * noise)
        if difference == 0 or difference < needed:
            words = "it answers as the base model does, so the adapter does nothing"
            _refuse(f"{words}: their log probabilities are {difference:.3g} apart, needed {needed:.3g}")
        return difference

    def _require_agreement(self, answers: Sequence[Distribution], probes: Probes) -> float:
        apart = _farthest(answers, [probe.logprobs for probe in probes.probes])
        if apart > self._tolerance:
            words = "its answers are not those that were stored with it"
            _refuse(f"{words}: their log probabilities are {apart:.3g} apart, allowed {self._tolerance:g}")
        return apart


def _farthest(answers: Sequence[Distribution], stored: Sequence[Distribution]) -> float:
    return max(distance(mine, other, floor=LIKELY) for mine, other in zip(answers, stored, strict=True))


def _refuse(reason: str) -> None:
    raise EngineRefused(_UNPROCESSABLE, reason)
