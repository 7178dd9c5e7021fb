"""The jitted steps between frames and the first new token. Pure functions with static shapes; no I/O.

A chunk of C segments goes frames -> resized frames -> visual tokens -> KV prefix -> memory tokens; the S
segments of a video then go through allocation and packing into the LLM's prefill.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tempo_jax import ata
from tempo_jax.hybrid import lp_comp_for_tempo
from tempo_jax.models.compressor import Compressor
from tempo_jax.models.qwen3_vl import PromptBatch, VisionOutput
from tempo_jax.models.resize import resize_image, resize_video
from tempo_jax.models.tempo import Tempo, pack, visual_length
from tempo_jax.models.vision import grid_of
from tempo_jax.runtime import buckets, generate
from tempo_jax.runtime.compiling import Precompiled
from tempo_jax.runtime.generate import SamplingParams
from tempo_jax.runtime.platform_jit import platform_jit
from tempo_jax.runtime.row_groups import in_groups
from tempo_jax.sharding import ENCODER_RULES, constrain
from tempo_jax.tempo.options import MIN_TOKENS, PRUNE_STRATEGIES


class SegmentMemory(NamedTuple):
    """Memory tokens and relevance of all segments of a video, filled chunk by chunk."""

    memory_SKD: jax.Array
    relevance_S: jax.Array  # float32


class TokenAllocation(NamedTuple):
    """The memory tokens that each segment keeps."""

    kept_SKD: jax.Array  # the kept tokens of a segment come first
    allocation_S: jax.Array  # int32, tokens kept per segment
    visual_tokens: jax.Array  # int32, their sum
    visual_length: jax.Array  # int32, visual tokens and time tags


class Prompt(NamedTuple):
    """The LLM's text around the visual block; int32, padded with -1."""

    prefix_P: jax.Array
    suffix_Q: jax.Array
    tags_ST: jax.Array


@functools.partial(jax.jit, static_argnames=("steps", "image"))
def resize(frames, *, steps: tuple, image: bool):
    """Resizes uint8 [C, F, H, W, 3] to the model's size, uint8, one segment at a time to bound memory."""

    def resize_segment(frames):
        resized = resize_image(frames, steps[0]) if image else resize_video(frames, steps)
        return resized.astype(jnp.uint8)

    return constrain(jax.lax.map(resize_segment, frames), "batch", ENCODER_RULES)


@platform_jit()
def encode_frames(compressor: Compressor, frames) -> VisionOutput:
    """Visual tokens [C, V, D] of a chunk of resized frames, uint8 [C, F, h, w, 3]."""
    frames, vision = constrain(frames, "batch", ENCODER_RULES), compressor.config.vision
    height, width = grid_of(*frames.shape[2:4], vision)
    patches = frames.shape[1] // vision.temporal_patch_size * height * width
    return in_groups(compressor.encode_frames, 0, VisionOutput(0, 1), rows=patches)(frames)


@platform_jit()
def prefill_video(compressor: Compressor, visual: VisionOutput, prompts: PromptBatch):
    """The compressor's keys and values of a chunk's system prompts and videos, per layer."""
    in_axes, rows = (VisionOutput(0, 1), PromptBatch(0, 0, 1)), prompts.token_ids_SL.shape[1]
    prefix = in_groups(compressor.prefill, in_axes, 0, rows=rows)(visual, prompts)
    return [tuple(constrain(x, "batch", ENCODER_RULES) for x in kv) for kv in prefix]


@Precompiled
@platform_jit(donate_argnames=("memory",))
def compress_chunk(
    compressor: Compressor,
    memory: SegmentMemory,
    prefix,
    prefix_length_C,
    next_position_C,
    question_ids_Q,
    question_length,
    start,
):
    """Compresses a chunk for a question, and writes its memory tokens at segments start..start+C-1."""

    def compress(prefix, prefix_length_C, next_position_C):
        return compressor.compress(prefix, prefix_length_C, next_position_C, question_ids_Q, question_length)

    rows = question_ids_Q.shape[0] + compressor.memory_tokens
    compress = in_groups(compress, 0, 0, rows=rows)
    tokens, relevance = compress(prefix, prefix_length_C, next_position_C)
    return SegmentMemory(
        jax.lax.dynamic_update_slice(memory.memory_SKD, constrain(tokens), (start, 0, 0)),
        jax.lax.dynamic_update_slice(memory.relevance_S, constrain(relevance), (start,)),
    )


@Precompiled
@functools.partial(jax.jit, static_argnames=("strategy", "limits", "drop_ratio"))
@jax.named_scope("allocate_tokens")
def allocate_tokens(
    memory: SegmentMemory,
    num_segments,
    budget,
    tags_ST,
    key,
    *,
    strategy: str | None,
    limits: tuple[int, int] | None = None,
    drop_ratio: float = 0.5,
) -> TokenAllocation:
    """Allocates `budget` memory tokens to the first `num_segments` segments.

    Args:
      memory: Memory tokens and relevance of the video.
      num_segments: Segments that are no padding.
      budget: Maximum number of memory tokens.
      tags_ST: Ids of the segments' time tags, padded with -1.
      key: For the random strategies.
      strategy: How tokens of a segment are kept. None keeps every token; "uniform" allocates without regard
        to relevance; the strategies in options.PRUNE_STRATEGIES drop whole segments without regard to the
        budget.
      limits: Minimum and maximum number of tokens of a segment.
      drop_ratio: Fraction of segments that the prune strategies drop.
    """
    total, per_segment = memory.memory_SKD.shape[:2]
    valid = jnp.arange(total) < num_segments
    min_tokens, max_tokens = limits or (MIN_TOKENS, per_segment)
    kept = memory.memory_SKD
    if strategy is None:
        allocation = jnp.where(valid, per_segment, 0).astype(jnp.int32)
    elif strategy in PRUNE_STRATEGIES:
        mode = PRUNE_STRATEGIES[strategy]
        allocation = ata.prune(
            memory.relevance_S, drop_ratio=drop_ratio, max_tokens=max_tokens, mode=mode, key=key, valid=valid
        )
        kept, _ = ata.keep(kept, allocation)
    else:
        uniform = strategy == "uniform"
        relevance = jnp.ones_like(memory.relevance_S) if uniform else memory.relevance_S
        allocation = ata.allocate(relevance, valid, budget, min_tokens=min_tokens, max_tokens=max_tokens)
        kept, _ = ata.keep(kept, allocation, "head" if uniform else strategy, key)
    tag_lengths = jnp.sum(tags_ST >= 0, axis=1)
    length = visual_length(allocation, tag_lengths)
    return TokenAllocation(kept, allocation, jnp.sum(allocation), length)


class Prefilled(NamedTuple):
    """The LLM after its prompt."""

    hidden_BD: jax.Array  # after the final norm, at the last prompt token
    logits_BV: jax.Array  # float32
    embeddings_BL: jax.Array  # channel sums of the input embeddings, for comparison with golden outputs
    state: generate.DecodeState


@Precompiled
@platform_jit(static_argnames=("bucket", "capacity", "greedy", "eos", "lp_comp"))
@jax.named_scope("llm_prefill")
def prefill(
    tempo: Tempo,
    allocation: TokenAllocation,
    prompt: Prompt,
    sampling: SamplingParams,
    *,
    bucket: int,
    capacity: int,
    greedy: bool,
    eos: tuple[int, ...],
    lp_comp: lp_comp_for_tempo.SegmentDropSchedule | None = None,
) -> Prefilled:
    """Packs, embeds and prefills the prompt in a bucket, and samples the first new token.

    lp_comp: which memory tokens are dropped between the LLM's layers; None: none.
    """
    kept = allocation.kept_SKD
    packed = pack(
        allocation.allocation_S,
        prompt.tags_ST,
        prompt.prefix_P,
        prompt.suffix_Q,
        memory_tokens=kept.shape[1],
        bucket=bucket,
    )
    memory = kept.reshape(-1, kept.shape[-1])
    x = tempo.assemble(packed.token_ids[None], packed.memory_index[None], memory)
    if lp_comp is None:
        hidden, caches = tempo.llm.prefill(x, jnp.arange(bucket)[None])
        lengths, length = packed.length[None], packed.length
    else:
        positions = lp_comp_for_tempo.token_positions(packed, allocation.allocation_S, kept.shape[1])
        hidden, caches, lengths = lp_comp_for_tempo.prefill(tempo.llm, x[0], positions, lp_comp)
        length = lengths[-1, 0]
    last = jax.lax.dynamic_index_in_dim(hidden, length - 1, axis=1, keepdims=False)
    logits = constrain(tempo.llm.logits(last))
    state = generate.init_decode_state(
        logits, lengths, caches, sampling, capacity=capacity, greedy=greedy, eos=eos,
        unused=buckets.pick_bucket(bucket, buckets.CACHE_BUCKETS) - bucket,
    )  # fmt: skip
    return Prefilled(last, logits, jnp.sum(x, axis=-1), state)
