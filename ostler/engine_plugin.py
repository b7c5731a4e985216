"""Mends two faults of vLLM's CPU build. vLLM loads this in all its processes, by the entry point in pyproject.toml.

In a batch that mixes requests with and without an adapter, vLLM 0.32's CPU kernels answer those without one as if they
had the adapter in the last slot: they take the index -1, which says "no adapter", for "the last one". So the base model
answers wrongly under load (vllm pull requests 48421 and 49656, open in 2026). The GPU kernels skip -1.

A request for `prompt_logprobs` that shares a batch with another one ends the whole engine: the logits of a prompt's
tokens are computed with the adapters of the batch's requests, of which there is another number. What an adapter adds to
the output layer is left out there, which is nothing unless the adapter was trained on that layer. The GPU kernels do
not end over it.
"""

from typing import Any


def register() -> None:
    """Put the mended functions in place of vLLM's."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.lora.ops.torch_ops import lora_ops

    if getattr(lora_ops.bgmv_shrink, "mended", False):  # vLLM loads its plugins more than once
        return
    _mend_shrink()
    _mend_logits()


def _mend_shrink() -> None:
    """Have the first of LoRA's two products be zero for requests without an adapter."""
    from vllm.lora.ops import torch_ops
    from vllm.lora.ops.torch_ops import lora_ops

    shrink = lora_ops.bgmv_shrink

    def bgmv_shrink(inputs: Any, weights: Any, output: Any, indices: Any, scaling: float = 1.0) -> None:
        shrink(inputs, weights, output, indices, scaling)
        output *= (indices != -1).unsqueeze(1)

    bgmv_shrink.mended = True  # type: ignore[attr-defined]
    lora_ops.bgmv_shrink = torch_ops.bgmv_shrink = bgmv_shrink


def _mend_logits() -> None:
    """Add to logits only what the batch's adapters add to rows of their own requests."""
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU  # only now: it takes over the function above

    add = PunicaWrapperCPU.add_lora_logits

    def add_lora_logits(self: Any, logits: Any, states: Any, *weights: Any, **options: Any) -> None:
        rows, requests = states.view(-1, states.shape[-1]).shape[0], self.sampler_indices.shape[0]
        if requests in (1, rows):
            add(self, logits, states, *weights, **options)

    PunicaWrapperCPU.add_lora_logits = add_lora_logits
