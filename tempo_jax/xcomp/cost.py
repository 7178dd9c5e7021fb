"""What XComp costs: FLOPs of prefill and bytes of its cache, with LP-Comp and without (xcomp §2.9, §5.4).

Counted are products with weights and of activations (a causal score matrix counts half), not norms, softmax
or the language head.
"""

from tempo_jax.models.config import UMTConfig, XCompConfig
from tempo_jax.xcomp.token_compression import VARIANTS, DropSchedule, make_schedule


def _plan(config: XCompConfig, compress: bool) -> DropSchedule:
    settings = config.compression if compress else VARIANTS["none"]
    return make_schedule(settings, config.llm.num_layers, config.frame_tokens)


def vision_flops(config: UMTConfig, frames: int) -> tuple[float, float]:
    """Of one clip: products with weights, products of activations."""
    tokens, width = frames * config.patches_per_side**2, config.hidden_size
    patch = config.in_channels * config.patch_size**2
    weights = patch * width + config.depth * (4 * width**2 + 2 * width * config.intermediate_size)
    return 2.0 * tokens * weights, 4.0 * config.depth * tokens**2 * width


def llm_flops(
    config: XCompConfig, text: int, frames: int, *, compress: bool = True, layers: int | None = None
) -> tuple[float, float]:
    """Of reading one prompt: products with weights, products of activations (attention); of the first
    `layers` layers, or of all."""
    llm = config.llm
    heads, kv = llm.num_heads * llm.head_dim, llm.num_kv_heads * llm.head_dim
    layer = llm.hidden_size * (2 * heads + 2 * kv + 3 * llm.intermediate_size)
    lengths = [text + frames * tokens for tokens in _plan(config, compress).tokens[1:][:layers]]
    return 2.0 * layer * sum(lengths), 2.0 * heads * sum(n * n for n in lengths)


def prefill_flops(config: XCompConfig, text: int, frames: int, **options) -> float:
    """Of the LLM alone, as the paper's table counts: no vision tower, no scoring passes."""
    return sum(llm_flops(config, text, frames, **options))


def cache_bytes(config: XCompConfig, text: int, frames: int, *, compress: bool = True, item: int = 2) -> int:
    """Keys and values of a prompt; item: bytes of a number."""
    per_token = 2 * config.llm.num_kv_heads * config.llm.head_dim * item
    return per_token * sum(text + frames * k for k in _plan(config, compress).tokens[1:])
