"""Analytic FLOPs of a training step and peak FLOP/s of devices, for model FLOP utilization (MFU).

Counted are matmuls of the forward and the backward pass over the static shapes of a batch, padding included,
since devices do compute it. Not counted: recomputation by rematerialization, norms, softmax. A causal score
matrix counts half. The backward pass costs one forward pass for gradients of activations wherever something
below is trained, and one for gradients of weights where they are trained.
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


class ModuleFlops(NamedTuple):
    """Forward FLOPs of one module: matmuls with weights, and matmuls of activations (attention)."""

    group: str  # training.param_groups.GROUPS
    weights: float
    scores: float


def train_step_flops(parts: Iterable[ModuleFlops], learning_rates: Mapping[str, float]) -> float:
    """Returns the FLOPs of one optimizer step, from the modules of its forward pass in their order."""
    total, needs_gradient = 0.0, False  # whether something that this module's input depends on is trained
    for part in parts:
        is_trained = learning_rates.get(part.group, 0) > 0
        needs_gradient |= is_trained
        backward = part.weights + 2 * part.scores if needs_gradient else 0.0
        total += part.weights + part.scores + backward + part.weights * is_trained
    return total


def peak_flops(device: Any) -> float | None:
    """Returns the peak dense bfloat16 FLOP/s of a JAX device, None where it is unknown."""
    return PEAK.get(device.device_kind)


def decoder(config: DecoderConfig, rows: int, length: int, labels: Any = None) -> tuple[float, float]:
    """Returns forward FLOPs of weights and of attention scores of a decoder.

    Args:
      config: The decoder.
      rows: Number of sequences.
      length: Tokens of each.
      labels: Labels of the language head, [micro-batches, rows, length]; None without a head.
    """
    heads, width = config.num_heads * config.head_dim, config.hidden_size
    kv = config.num_kv_heads * config.head_dim
    layer = width * (2 * heads + 2 * kv) + 3 * width * config.intermediate_size
    weights = 2.0 * rows * length * config.num_layers * layer
    if labels is not None:
        weights += 2.0 * positions_with_logits(labels) * width * config.vocab_size
    scores = config.num_layers * 2 * length * heads / 2  # causal
    return weights, 2.0 * rows * length * scores


def positions_with_logits(labels: Any) -> int:
    """Counts the positions whose logits `losses.cross_entropy` computes; all of them for a mere shape."""
    micro, rows, length = labels.shape
    chunk = min(CHUNK, length)
    if not isinstance(labels, np.ndarray):
        return micro * rows * -(-length // chunk) * chunk
    longest = (labels != IGNORE).sum(-1).max(-1)
    return int((-(-longest // chunk)).sum()) * chunk * rows


def vision(config: VisionConfig, frames_shape: tuple[int, ...]) -> tuple[float, float]:
    """Returns forward FLOPs of weights and of attention scores for frames [..., frames, height, width, 3]."""
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


def memory_flops(config: TempoConfig, batch: Any) -> Iterator[ModuleFlops]:
    """Yields the FLOPs of the modules that make memory tokens, up to the projector."""
    compressor, inner, outer = config.compressor, config.compressor.text.hidden_size, config.llm.hidden_size
    yield ModuleFlops("vision", *vision(compressor.vision, batch.frames_PFHWC.shape))
    yield ModuleFlops("memory", 0.0, 0.0)  # an input of the decoder
    micro, pool, length = batch.rows.token_ids_SL.shape
    yield ModuleFlops("compressor", *decoder(compressor.text, micro * pool, length))
    layers = projector_layers(config.projector)
    projector = sum((inner if layer == 0 else outer) * outer for layer in layers)
    yield ModuleFlops("projector", 2.0 * micro * pool * config.memory_tokens * projector, 0.0)
