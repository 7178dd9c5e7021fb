"""The jitted programs between frames and the first token. Pure, static shapes, no I/O.

Visual tokens live in pools, buffers of a fixed size: which frames a prompt holds is an index into one, so the
number of frames, the chunk and the question change without compiling anything inside a bucket.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tempo_jax.models.resize import resize_direct
from tempo_jax.models.xcomp import XComp
from tempo_jax.runtime import generate
from tempo_jax.sharding import apart, constrain
from tempo_jax.xcomp import token_compression
from tempo_jax.xcomp.frame_selection import Question, ScoringWindows, layer_scores
from tempo_jax.xcomp.token_compression import DropSchedule


class Prompt(NamedTuple):
    """Text around the video, int32."""

    prefix_P: jax.Array
    suffix_Q: jax.Array  # padded
    suffix_length: jax.Array


@functools.partial(jax.jit, static_argnames=("size",))
@apart()
def resize(frames, *, size: int):
    """uint8 [C, T, H, W, 3] to uint8 [C, T, size, size, 3], a clip at a time to bound memory."""
    return constrain(
        jax.lax.map(lambda clip: resize_direct(clip, (size, size)).astype(jnp.uint8), frames), "segments"
    )


@functools.partial(jax.jit, donate_argnames=("pool",))
@apart()
def encode_frames(model: XComp, pool, frames, start):
    """The pool [M, D] with the visual tokens of C clips, uint8 [C, T, H, W, 3], from row `start` on."""
    tokens = constrain(model.encode_clips(constrain(frames, "segments")))
    return jax.lax.dynamic_update_slice(
        pool, tokens.reshape(-1, tokens.shape[-1]).astype(pool.dtype), (start, 0)
    )


def assemble(model: XComp, pool, rows_V, frames, prompt: Prompt, room: token_compression.RowCapacity):
    """A prompt's embeddings [1, L, D] and rows. rows_V: pool rows of room.frames frames, `frames` real."""
    lengths = (prompt.prefix_P.shape[0], frames, prompt.suffix_length)
    rows = token_compression.RowLengths(*(jnp.asarray(n, jnp.int32)[None] for n in lengths))
    text, visual = token_compression.token_indices(rows, room, model.config.frame_tokens)
    ids = jnp.concatenate([prompt.prefix_P, prompt.suffix_Q])[jnp.maximum(text, 0)]
    index = jnp.where(visual >= 0, rows_V[jnp.maximum(visual, 0)], -1)
    return model.assemble(ids, index, pool), rows


@functools.partial(jax.jit, static_argnames=("frames", "plan", "layers", "windows", "causal"))
def score(
    model: XComp,
    pool,
    first_clip,
    clips,
    prompt: Prompt,
    question: Question,
    *,
    frames: int,
    plan: DropSchedule,
    layers: range,
    windows: ScoringWindows,
    causal: bool,
):
    """Scores of a chunk's clips of 8 frames, float32 [layers, frames / 8].

    The chunk is `frames` frames of a pool that holds `clips` of the vision tower's clips, from `first_clip`
    on; past the last clip comes the first.
    """
    per_clip = model.config.frame_tokens * model.config.clip_frames
    token = jnp.arange(frames * model.config.frame_tokens)
    rows = (first_clip + token // per_clip) % clips * per_clip + token % per_clip
    room = token_compression.RowCapacity(prompt.prefix_P.shape[0] + prompt.suffix_Q.shape[0], frames)
    x, where = assemble(model, pool, rows, jnp.int32(frames), prompt, room)
    return layer_scores(
        model.llm,
        x,
        where,
        room,
        plan,
        question,
        prefix=prompt.prefix_P.shape[0],
        layers=layers,
        windows=windows,
        causal=causal,
    )


class Prefilled(NamedTuple):
    """The LLM after its prompt."""

    logits_BV: jax.Array  # float32
    state: generate.DecodeState


@functools.partial(jax.jit, static_argnames=("room", "plan", "capacity", "greedy", "eos"))
def prefill(
    model: XComp,
    pool,
    frames,
    prompt: Prompt,
    sampling: generate.SamplingParams,
    *,
    room: token_compression.RowCapacity,
    plan: DropSchedule,
    capacity: int,
    greedy: bool,
    eos: tuple[int, ...],
) -> Prefilled:
    """Reads the prompt with the pool's first `frames` frames and chooses the first new token."""
    rows_V = jnp.arange(room.frames * model.config.frame_tokens)
    x, rows = assemble(model, pool, rows_V, frames, prompt, room)
    hidden, caches = token_compression.prefill(model.llm, x, rows, room, plan)
    lengths = rows.lengths(plan)
    last = jnp.take_along_axis(hidden, lengths[-1][:, None, None] - 1, axis=1)[:, 0]
    logits = constrain(model.llm.logits(last))
    state = generate.init_decode_state(
        logits, lengths, caches, sampling, capacity=capacity, greedy=greedy, eos=eos
    )
    return Prefilled(logits, state)
