"""Analytic FLOPs of XComp's prefill and bytes of its KV cache, with and without LP-Comp.

Matmuls with weights and between activations are counted (half of a causal score matrix), not norms, softmax
or the language-model head (docs/reference/xcomp.md#cost).
"""

from tempo_jax.models.config import UMTConfig, XCompConfig
from tempo_jax.xcomp.token_compression import VARIANTS, DropSchedule, make_schedule


def _schedule(config: XCompConfig, compress: bool) -> DropSchedule:
    settings = config.compression if compress else VARIANTS["none"]
    return make_schedule(settings, config.llm.num_layers, config.frame_tokens)


def vision_flops(config: UMTConfig, frames: int) -> tuple[float, float]:
    """FLOPs of one clip: matmuls with weights, matmuls between activations."""
    tokens, width = frames * config.patches_per_side**2, config.hidden_size
    patch = config.in_channels * config.patch_size**2
    weights = patch * width + config.depth * (4 * width**2 + 2 * width * config.intermediate_size)
    return 2.0 * tokens * weights, 4.0 * config.depth * tokens**2 * width


def llm_flops(
    config: XCompConfig, text: int, frames: int, *, compress: bool = True, layers: int | None = None
) -> tuple[float, float]:
    """FLOPs of prefilling one prompt: matmuls with weights, matmuls between activations (attention).

    layers: counts the first so many layers; None: all.
    """
    llm = config.llm
    heads, kv = llm.num_heads * llm.head_dim, llm.num_kv_heads * llm.head_dim
    layer = llm.hidden_size * (2 * heads + 2 * kv + 3 * llm.intermediate_size)
    lengths = [text + frames * tokens for tokens in _schedule(config, compress).layer_tokens[:layers]]
    return 2.0 * layer * sum(lengths), 2.0 * heads * sum(n * n for n in lengths)


def prefill_flops(config: XCompConfig, text: int, frames: int, **options) -> float:
    """FLOPs of the LLM's prefill, as the paper's table counts: without vision tower and scoring."""
    return sum(llm_flops(config, text, frames, **options))


def cache_bytes(config: XCompConfig, text: int, frames: int, *, compress: bool = True, item: int = 2) -> int:
    """Bytes of a prompt's keys and values. item: bytes of an element."""
    per_token = 2 * config.llm.num_kv_heads * config.llm.head_dim * item
    return per_token * sum(text + frames * k for k in _schedule(config, compress).layer_tokens)
