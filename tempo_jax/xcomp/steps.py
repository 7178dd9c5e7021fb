"""The jitted steps between frames and the first new token. Pure functions with static shapes; no I/O.

Visual tokens are in buffers of a fixed size, and a prompt refers to them by index: the number of frames, the
chunk and the question may change within a bucket without compilation.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tempo_jax.models.resize import resize_direct
from tempo_jax.models.xcomp import XComp
from tempo_jax.runtime import generate
from tempo_jax.runtime.compiling import Precompiled
from tempo_jax.runtime.platform_jit import platform_jit
from tempo_jax.runtime.row_groups import in_groups
from tempo_jax.sharding import ENCODER_RULES, constrain
from tempo_jax.xcomp import token_compression
from tempo_jax.xcomp.frame_selection import Question, ScoringContext, ScoringWindows, layer_scores
from tempo_jax.xcomp.token_compression import DropSchedule, RowCapacity, RowLengths


class Prompt(NamedTuple):
    """Text around the video, int32."""

    prefix_P: jax.Array
    suffix_Q: jax.Array  # right-padded
    suffix_length: jax.Array


@functools.partial(jax.jit, static_argnames=("size",))
def resize(frames, *, size: int):
    """Resizes uint8 [C, T, H, W, 3] to uint8 [C, T, size, size, 3], one clip at a time to bound memory."""

    def resize_clip(clip):
        return resize_direct(clip, (size, size)).astype(jnp.uint8)

    return constrain(jax.lax.map(resize_clip, frames), "batch", ENCODER_RULES)


@Precompiled
@platform_jit(donate_argnames=("buffer",))
def encode_frames(model: XComp, buffer, frames, start):
    """Writes the visual tokens of C clips, uint8 [C, T, H, W, 3], to a buffer [M, D] from row `start` on."""
    rows = frames.shape[1] * model.config.vision.patches_per_side**2
    encode = in_groups(model.encode_clips, 0, 0, rows=rows)
    tokens = constrain(encode(constrain(frames, "batch", ENCODER_RULES)))
    return jax.lax.dynamic_update_slice(
        buffer, tokens.reshape(-1, tokens.shape[-1]).astype(buffer.dtype), (start, 0)
    )


def assemble(model: XComp, buffer, buffer_rows_V, frames, prompt: Prompt, capacity: RowCapacity):
    """A prompt's embeddings [1, L, D] and lengths.

    buffer_rows_V: buffer rows of the visual tokens of capacity.frames frames, of which `frames` are real.
    """
    lengths = (prompt.prefix_P.shape[0], frames, prompt.suffix_length)
    lengths = RowLengths(*(jnp.asarray(n, jnp.int32)[None] for n in lengths))
    text, visual = token_compression.token_indices(lengths, capacity, model.config.frame_tokens)
    ids = jnp.concatenate([prompt.prefix_P, prompt.suffix_Q])[jnp.maximum(text, 0)]
    index = jnp.where(visual >= 0, buffer_rows_V[jnp.maximum(visual, 0)], -1)
    return model.assemble(ids, index, buffer), lengths


@Precompiled
@functools.partial(jax.jit, static_argnames=("frames", "schedule", "layers", "windows", "causal"))
def score(
    model: XComp,
    buffer,
    first_clip,
    num_clips,
    prompt: Prompt,
    question: Question,
    *,
    frames: int,
    schedule: DropSchedule,
    layers: range,
    windows: ScoringWindows,
    causal: bool,
):
    """Scores of a chunk's clips of 8 frames, float32 [layers, frames / 8].

    The chunk has `frames` frames of a buffer of `num_clips` clips of the vision tower's, from `first_clip`
    on; the last clip is followed by the first.
    """
    clip_tokens = model.config.frame_tokens * model.config.clip_frames
    token = jnp.arange(frames * model.config.frame_tokens)
    buffer_rows = (first_clip + token // clip_tokens) % num_clips * clip_tokens + token % clip_tokens
    prefix, text_capacity = prompt.prefix_P.shape[0], prompt.prefix_P.shape[0] + prompt.suffix_Q.shape[0]
    capacity = RowCapacity(text_capacity, frames)
    x, lengths = assemble(model, buffer, buffer_rows, jnp.int32(frames), prompt, capacity)
    return layer_scores(
        model.llm,
        x,
        lengths,
        schedule,
        question,
        ScoringContext(prefix, frames, windows, causal),
        text_capacity=text_capacity,
        layers=layers,
    )


class Prefilled(NamedTuple):
    """The LLM after its prompt."""

    logits_BV: jax.Array  # float32
    state: generate.DecodeState


@Precompiled
@functools.partial(jax.jit, static_argnames=("row_capacity", "schedule", "capacity", "greedy", "eos"))
@jax.named_scope("llm_prefill")
def prefill(
    model: XComp,
    buffer,
    frames,
    prompt: Prompt,
    sampling: generate.SamplingParams,
    *,
    row_capacity: RowCapacity,
    schedule: DropSchedule,
    capacity: int,
    greedy: bool,
    eos: tuple[int, ...],
) -> Prefilled:
    """Prefills the prompt with the buffer's first `frames` frames, and samples the first new token."""
    buffer_rows_V = jnp.arange(row_capacity.frames * model.config.frame_tokens)
    x, row_lengths = assemble(model, buffer, buffer_rows_V, frames, prompt, row_capacity)
    hidden, caches = token_compression.prefill(model.llm, x, row_lengths, row_capacity, schedule)
    lengths = row_lengths.per_layer(schedule)
    last = jnp.take_along_axis(hidden, lengths[-1][:, None, None] - 1, axis=1)[:, 0]
    logits = constrain(model.llm.logits(last))
    state = generate.init_decode_state(
        logits, lengths, caches, sampling, capacity=capacity, greedy=greedy, eos=eos
    )
    return Prefilled(logits, state)
