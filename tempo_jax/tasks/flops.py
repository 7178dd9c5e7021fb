"""Analytic FLOPs of a training step, and the peak of chips: what model FLOP utilisation is made of.

Counted are matrix products of forward and backward pass over the static shapes of a batch, padding
included, since chips do compute it. Not counted: what rematerialisation computes again, norms, softmax.
A causal score matrix counts half. Backward: one forward's worth for gradients of activations wherever
something learns below, one for gradients of weights where they learn themselves.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tempo_jax.models.config import DecoderConfig, TempoConfig, VisionConfig
from tempo_jax.models.tempo import projector_layers
from tempo_jax.prompts import IGNORE
from tempo_jax.tasks.losses import CHUNK

# Dense bfloat16 FLOP/s of one JAX device, by device_kind: cloud.google.com/tpu/docs and NVIDIA's data
# sheets. Other devices: MFU is not shown.
PEAK = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,  # half of a chip
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


class Part(NamedTuple):
    """Forward FLOPs of one module: products with weights, and products of activations (attention)."""

    group: str  # training.groups.GROUPS
    weights: float
    scores: float


def of_step(parts: Iterable[Part], rates: Mapping[str, float]) -> float:
    """FLOPs of one optimiser step, from its forward parts in their order."""
    total, below = 0.0, False  # `below`: something that this part's input depends on learns
    for part in parts:
        learns = rates.get(part.group, 0) > 0
        below |= learns
        backward = part.weights + 2 * part.scores if below else 0.0  # scores: both factors are activations
        total += part.weights + part.scores + backward + part.weights * learns
    return total


def peak(device: Any) -> float | None:
    """FLOP/s of a JAX device where we know it."""
    return PEAK.get(device.device_kind)


def decoder(config: DecoderConfig, rows: int, length: int, labels: Any = None) -> tuple[float, float]:
    """Forward FLOPs of weights and of scores. labels: of a language head, [micro-batches, rows, length]."""
    heads, width = config.num_heads * config.head_dim, config.hidden_size
    kv = config.num_kv_heads * config.head_dim
    layer = width * (2 * heads + 2 * kv) + 3 * width * config.intermediate_size
    weights = 2.0 * rows * length * config.num_layers * layer
    if labels is not None:
        weights += 2.0 * positions_with_logits(labels) * width * config.vocab_size
    scores = config.num_layers * 2 * length * heads / 2  # causal
    return weights, 2.0 * rows * length * scores


def positions_with_logits(labels: Any) -> int:
    """As losses.cross_entropy makes them: in chunks as long as any row has labels; all, of a mere shape."""
    micro, rows, length = labels.shape
    chunk = min(CHUNK, length)
    if not isinstance(labels, np.ndarray):
        return micro * rows * -(-length // chunk) * chunk
    longest = (labels != IGNORE).sum(-1).max(-1)
    return int((-(-longest // chunk)).sum()) * chunk * rows


def vision(config: VisionConfig, frames_shape: tuple[int, ...]) -> tuple[float, float]:
    """Forward FLOPs of weights and of scores; frames_shape: [..., frames, height, width, channels]."""
    *rows, count, height, width, _ = frames_shape
    slices = math.prod(rows) * count // config.temporal_patch_size
    patches = (height // config.patch_size) * (width // config.patch_size)
    size, merge = config.hidden_size, config.spatial_merge_size**2
    block = 4 * size**2 + 2 * size * config.intermediate_size
    merged = size * merge
    mergers = (1 + len(config.deepstack_layers)) * (merged**2 + merged * config.out_hidden_size) / merge
    weights = config.patch_dim * size + config.depth * block + mergers
    scores = config.depth * 2 * patches * size
    return 2.0 * slices * patches * weights, 2.0 * slices * patches * scores


def of_memory(config: TempoConfig, batch: Any) -> Iterator[Part]:
    """What makes memory tokens, up to the projector."""
    svlm, inner, outer = config.compressor, config.compressor.text.hidden_size, config.llm.hidden_size
    yield Part("vision", *vision(svlm.vision, batch.frames_PFHWC.shape))
    yield Part("memory", 0.0, 0.0)  # stands at the decoder's input
    micro, pool, length = batch.rows.token_ids_SL.shape
    yield Part("svlm", *decoder(svlm.text, micro * pool, length))
    places = projector_layers(config.projector)
    projector = sum((inner if place == 0 else outer) * outer for place in places)
    yield Part("projector", 2.0 * micro * pool * config.memory_tokens * projector, 0.0)
