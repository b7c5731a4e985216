"""Mends one fault of vLLM's CPU build. vLLM loads this in all its processes, by the entry point in pyproject.toml.

In a batch that mixes requests with and without an adapter, vLLM 0.32's CPU kernels answer those without one as if they
had the adapter in the last slot: they take the index -1, which says "no adapter", for "the last one". So the base model
answers wrongly under load (vllm pull requests 48421 and 49656, open in 2026). The GPU kernels skip -1.
"""

from typing import Any


def register() -> None:
    """Have the first of LoRA's two products be zero for requests without an adapter."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.lora.ops import torch_ops
    from vllm.lora.ops.torch_ops import lora_ops

    shrink = lora_ops.bgmv_shrink
    if getattr(shrink, "mended", False):  # vLLM loads its plugins more than once
        return

    def bgmv_shrink(inputs: Any, weights: Any, output: Any, indices: Any, scaling: float = 1.0) -> None:
        shrink(inputs, weights, output, indices, scaling)
        output *= (indices != -1).unsqueeze(1)

    bgmv_shrink.mended = True  # type: ignore[attr-defined]
    lora_ops.bgmv_shrink = torch_ops.bgmv_shrink = bgmv_shrink
