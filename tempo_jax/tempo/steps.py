"""The jitted programs between frames and the first token. Pure, static shapes, no I/O.

One chunk of C segments goes frames -> pixels -> visual tokens -> prefix -> memory; the S segments
of a video then go through allocation and packing into the LLM's prefill.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tempo_jax import ata
from tempo_jax.hybrid import lp_comp_for_tempo
from tempo_jax.models.compressor import Compressor
from tempo_jax.models.prompt_packing import pack, visual_length
from tempo_jax.models.qwen3_vl import PromptBatch, VisionOutput
from tempo_jax.models.resize import resize_image, resize_video
from tempo_jax.models.tempo import Tempo
from tempo_jax.runtime import generate
from tempo_jax.runtime.generate import SamplingParams
from tempo_jax.sharding import apart, constrain
from tempo_jax.tempo.options import MIN_TOKENS, PRUNE_STRATEGIES


class SegmentMemory(NamedTuple):
    """Memory tokens of a whole video, filled chunk by chunk."""

    memory_SKD: jax.Array
    relevance_S: jax.Array  # float32


class TokenAllocation(NamedTuple):
    """What allocation makes of a bank."""

    kept_SKD: jax.Array  # kept tokens first
    allocation_S: jax.Array  # int32
    visual_tokens: jax.Array  # int32, memory tokens kept
    visual_length: jax.Array  # int32, those and their time tags


class Prompt(NamedTuple):
    """The LLM's text around the visual block; int32, padded with -1."""

    prefix_P: jax.Array
    suffix_Q: jax.Array
    tags_ST: jax.Array


@functools.partial(jax.jit, static_argnames=("steps", "image"))
@apart()
def resize(frames, *, steps: tuple, image: bool):
    """uint8 [C, F, H, W, 3] to model size, uint8, one segment at a time to bound memory."""

    def segment(frames):
        resized = resize_image(frames, steps[0]) if image else resize_video(frames, steps)
        return resized.astype(jnp.uint8)

    return constrain(jax.lax.map(segment, frames), "segments")


@jax.jit
@apart()
def encode_frames(compressor: Compressor, frames) -> VisionOutput:
    """Visual tokens of a chunk: uint8 [C, F, h, w, 3] -> [C, V, D]."""
    return compressor.encode_frames(constrain(frames, "segments"))


@jax.jit
@apart()
def prefill_video(compressor: Compressor, visual: VisionOutput, rows: PromptBatch):
    """Keys and values of a chunk's system prompts and videos."""
    return [tuple(constrain(x, "segments") for x in kv) for kv in compressor.prefill(visual, rows)]


@functools.partial(jax.jit, donate_argnames=("bank",))
def compress_chunk(
    compressor: Compressor, bank: SegmentMemory, prefix, length_C, next_C, question_Q, question_length, start
):
    """Asks the question of a chunk and stores its memory tokens at segments start..start+C-1."""
    memory, relevance = compressor.compress(prefix, length_C, next_C, question_Q, question_length)
    return SegmentMemory(
        jax.lax.dynamic_update_slice(bank.memory_SKD, constrain(memory), (start, 0, 0)),
        jax.lax.dynamic_update_slice(bank.relevance_S, constrain(relevance), (start,)),
    )


@functools.partial(jax.jit, static_argnames=("strategy", "limits", "drop_ratio"))
def allocate_tokens(
    bank: SegmentMemory,
    segments,
    budget,
    tags_ST,
    key,
    *,
    strategy: str | None,
    limits: tuple[int, int] | None = None,
    drop_ratio: float = 0.5,
) -> TokenAllocation:
    """Allocation under `budget` of the first `segments`; strategy None keeps every token.

    limits: the fewest and the most tokens of a segment. The ablations: "uniform" gives every segment the
    same number of tokens, whatever its relevance; those of options.PRUNING drop segments, whatever the
    budget.
    """
    total, per_segment = bank.memory_SKD.shape[:2]
    valid = jnp.arange(total) < segments
    floor, cap = limits or (MIN_TOKENS, per_segment)
    kept = bank.memory_SKD
    if strategy is None:
        allocation = jnp.where(valid, per_segment, 0).astype(jnp.int32)
    elif strategy in PRUNE_STRATEGIES:
        mode = PRUNE_STRATEGIES[strategy]
        allocation = ata.prune(
            bank.relevance_S, drop_ratio=drop_ratio, max_tokens=cap, mode=mode, key=key, valid=valid
        )
        kept, _ = ata.keep(kept, allocation)
    else:
        uniform = strategy == "uniform"
        relevance = jnp.ones_like(bank.relevance_S) if uniform else bank.relevance_S
        allocation = ata.allocate(relevance, valid, budget, min_tokens=floor, max_tokens=cap)
        kept, _ = ata.keep(kept, allocation, "head" if uniform else strategy, key)
    tag_lengths = jnp.sum(tags_ST >= 0, axis=1)
    return TokenAllocation(kept, allocation, jnp.sum(allocation), visual_length(allocation, tag_lengths))


class Prefilled(NamedTuple):
    """The LLM after its prompt."""

    hidden_BD: jax.Array  # post-norm, at the last prompt token
    logits_BV: jax.Array  # float32
    embeddings_BL: jax.Array  # channel sums of the input, to compare with the recorded runs
    state: generate.DecodeState


@functools.partial(jax.jit, static_argnames=("bucket", "capacity", "greedy", "eos", "lp_comp"))
def prefill(
    tempo: Tempo,
    selection: TokenAllocation,
    prompt: Prompt,
    sampling: SamplingParams,
    *,
    bucket: int,
    capacity: int,
    greedy: bool,
    eos: tuple[int, ...],
    lp_comp: lp_comp_for_tempo.SegmentDropSchedule | None = None,
) -> Prefilled:
    """Packs, embeds and reads the prompt in a bucket, and chooses the first new token.

    lp_comp: how memory tokens are deleted between the LLM's layers; None: they are not.
    """
    kept = selection.kept_SKD
    packed = pack(
        selection.allocation_S,
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
        where = lp_comp_for_tempo.token_positions(packed, selection.allocation_S, kept.shape[1])
        hidden, caches, lengths = lp_comp_for_tempo.prefill(tempo.llm, x[0], where, lp_comp)
        length = lengths[-1, 0]
    last = jax.lax.dynamic_index_in_dim(hidden, length - 1, axis=1, keepdims=False)
    logits = constrain(tempo.llm.logits(last))
    state = generate.init_decode_state(
        logits, lengths, caches, sampling, capacity=capacity, greedy=greedy, eos=eos
    )
    return Prefilled(last, logits, jnp.sum(x, axis=-1), state)
