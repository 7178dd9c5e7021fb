"""Analytic FLOPs of a training step, and the peak of chips: what model FLOP utilisation is made of.

Counted are matrix products of forward and backward pass over the static shapes of a batch, padding
included, since chips do compute it. Not counted: what rematerialisation computes again, norms, softmax.
A causal score matrix counts half. Backward: one forward's worth for gradients of activations wherever
something learns below, one for gradients of weights where they learn themselves.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tempo_jax.models.config import DecoderConfig, Qwen3VLConfig, TempoConfig, VisionConfig, XCompConfig
from tempo_jax.models.tempo import projector_layers
from tempo_jax.prompts import IGNORE
from tempo_jax.training import loss, loss_align, loss_llm, loss_svlm, loss_xcomp
from tempo_jax.training.loss import CHUNK
from tempo_jax.xcomp import cost

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


def of_step(config: Any, batch: Any, rates: Mapping[str, float]) -> float:
    """FLOPs of one optimiser step. batch: arrays with leading axes [micro-batches, rows]."""
    total, below = 0.0, False  # `below`: something that this part's input depends on learns
    for part in PARTS[type(batch)](config, batch):
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
        weights += 2.0 * _positions_with_logits(labels) * width * config.vocab_size
    scores = config.num_layers * 2 * length * heads / 2  # causal
    return weights, 2.0 * rows * length * scores


def _positions_with_logits(labels: Any) -> int:
    """As loss.cross_entropy makes them: in chunks as long as any row has labels; all, of a mere shape."""
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


def _memory(config: TempoConfig, batch: Any) -> Iterator[Part]:
    """What makes memory tokens, up to the projector."""
    svlm, inner, outer = config.compressor, config.compressor.text.hidden_size, config.llm.hidden_size
    yield Part("vision", *vision(svlm.vision, batch.frames_PFHWC.shape))
    yield Part("memory", 0.0, 0.0)  # stands at the decoder's input
    micro, pool, length = batch.rows.token_ids_SL.shape
    yield Part("svlm", *decoder(svlm.text, micro * pool, length))
    places = projector_layers(config.projector)
    projector = sum((inner if place == 0 else outer) * outer for place in places)
    yield Part("projector", 2.0 * micro * pool * config.memory_tokens * projector, 0.0)


def _tempo(config: TempoConfig, batch: Any) -> Iterator[Part]:
    yield from _memory(config, batch)
    micro, rows, length = batch.token_ids_BL.shape
    yield Part("llm", *decoder(config.llm, micro * rows, length, batch.labels_BL))


def _align(config: TempoConfig, batch: Any) -> Iterator[Part]:
    """Of the LLM its embedding alone."""
    yield from _memory(config, batch)
    micro, pool, memory = batch.labels_PM.shape
    yield Part("llm", 2.0 * micro * pool * memory * config.llm.hidden_size * config.llm.vocab_size, 0.0)


def _svlm(config: Qwen3VLConfig, batch: Any) -> Iterator[Part]:
    yield Part("vision", *vision(config.vision, batch.frames_PFHWC.shape))
    micro, pool, length = batch.rows.token_ids_SL.shape
    yield Part("svlm", *decoder(config.text, micro * pool, length, batch.labels_PL))


def _llm(config: DecoderConfig, batch: Any) -> Iterator[Part]:
    micro, rows, length = batch.token_ids_BL.shape
    yield Part("llm", *decoder(config, micro * rows, length, batch.labels_BL))


def _xcomp(config: XCompConfig, batch: Any) -> Iterator[Part]:
    micro, clips, frames = batch.frames_PFHWC.shape[:3]
    yield Part("vision", *(micro * clips * x for x in cost.vision_flops(config.vision, frames)))
    images = micro * batch.images_BHWC.shape[1]
    yield Part("vision", *(images * x for x in cost.vision_flops(config.vision, 1)))
    visual = (micro * clips * frames + images) * config.frame_tokens
    width = config.llm.hidden_size
    yield Part("projector", 2.0 * visual * (config.vision.hidden_size + width) * width, 0.0)
    rows, text = batch.text_BS.shape[1:]
    weights, scores = cost.llm_flops(config, text, batch.memory_index_BL.shape[2] // config.frame_tokens)
    weights = (
        micro * rows * weights + 2.0 * _positions_with_logits(batch.labels_BS) * width * config.llm.vocab_size
    )
    yield Part("llm", weights, micro * rows * scores)


PARTS: dict[type, Callable[[Any, Any], Iterator[Part]]] = {
    loss.Batch: _tempo, loss_align.Batch: _align, loss_svlm.Batch: _svlm, loss_llm.Batch: _llm,
    loss_xcomp.Batch: _xcomp,
}  # fmt: skip
