"""QC-Comp: frames are selected by how much the question attends to them (docs/reference/xcomp.md#selection).

Frames are scored in overlapping chunks of the video, which is treated as circular (`ScoringWindows`,
`chunk_starts`). A score is the attention weight from the question to a clip of 8 frames, in one layer, over a
window of clips with positions of its own (`layer_scores`): hidden states come from the whole chunk, and only
this attention is local, computed for the question's tokens as queries. Queries are scaled before logits are
formed, and softmax and means are float32: the reference implementation uses float16, where they can overflow
(docs/reference/xcomp.md#quirks-of-the-reference-code). From scores to frames it is numpy in float64
(`FrameScores`, `top_frames`).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.models import rope
from tempo_jax.models.decoder import Decoder, DecoderLayer
from tempo_jax.models.kernels.attention import attention
from tempo_jax.models.layers import get_layer
from tempo_jax.xcomp.layout import FRAME_GROUP
from tempo_jax.xcomp.token_compression import DropSchedule, RowCapacity, RowLengths, iterate_layers

STRIDE = 512  # frames between the starts of consecutive chunks
MASK_VALUE = -1e30


@dataclasses.dataclass(frozen=True)
class ScoringWindows:
    """Windows of consecutive clips of 8 frames over which the question's attention is normalized.

    The paper's scorer is (8, 4).

    Attributes:
      size: Clips of a window; 0: one window over the whole chunk (the scorer "global").
      hop: Clips from one window to the next.
    """

    size: int = 8
    hop: int = 4

    @property
    def overlap(self) -> int:
        """Frames by which chunks overlap: the outer clips of a chunk are in fewer windows than the others."""
        return 2 * FRAME_GROUP * self.hop if self.size else 0

    def starts(self, clips: int) -> list[int]:
        return list(range(0, clips - self.size + 1, self.hop)) if self.size else [0]

    def coverage(self, clips: int) -> np.ndarray:
        """How many windows contain each clip, int [clips]."""
        size = self.size or clips
        counts = np.zeros(clips, int)
        for start in self.starts(clips):
            counts[start : start + size] += 1
        return counts

    def valid(self, clips: int) -> np.ndarray:
        """Clips whose scores count, those in the maximum number of windows: bool [clips]."""
        counts = self.coverage(clips)
        return (counts == counts.max()) & (counts > 0)


LOCAL, GLOBAL = ScoringWindows(), ScoringWindows(size=0, hop=0)


def stride(frames: int, windows: ScoringWindows) -> int:
    """Frames from chunk to chunk: 512 or, for short videos, a power-of-two number of hops.

    Few different chunk lengths are thus ever compiled for.
    """
    unit = FRAME_GROUP * max(windows.hop, 1)
    hops = max(1, frames // unit)
    return min(STRIDE, unit << (hops.bit_length() - 1))


def chunk_frames(frames: int, windows: ScoringWindows) -> int:
    """Length of every chunk of a video of `frames` frames."""
    return stride(frames, windows) + windows.overlap


def chunk_starts(frames: int, repeats: int, windows: ScoringWindows = LOCAL) -> list[int]:
    """First frame of every chunk: `repeats` rounds over the video, each shifted against the last.

    A round is shifted by stride/repeats plus 8/repeats frames, so that clip boundaries move, too.
    """
    step = stride(frames, windows)
    chunks_per_round = -(-frames // step)
    shift = FRAME_GROUP // repeats + step // repeats
    return [(step * i + (i // chunks_per_round) * shift) % frames for i in range(repeats * chunks_per_round)]


def chunk_indices(start: int, length: int, frames: int) -> np.ndarray:
    """Frames of a chunk, int64 [length]; the end of the video is followed by its start."""
    return (start + np.arange(length)) % frames


class Question(NamedTuple):
    """Boundaries in the text after the video, counted from its start; int32, may be traced."""

    start: jax.Array  # first token of the question
    end: jax.Array  # one past its last, where the assistant's header starts
    text_end: jax.Array  # one past the header


@dataclasses.dataclass(frozen=True)
class ScoringContext:
    """What is static about scoring a chunk.

    Attributes:
      prefix: Text tokens before the video.
      frames: Frames of the chunk.
      windows: Windows that attention is normalized over.
      causal: Whether a token of the question attends to no later text; if False, as in the reference
        implementation, to all text up to the assistant's header (with "global" windows: including it).
    """

    prefix: int
    frames: int
    windows: ScoringWindows
    causal: bool


@jax.named_scope("qc_comp")
def layer_scores(
    decoder: Decoder,
    x_BLD,
    lengths: RowLengths,
    schedule: DropSchedule,
    question: Question,
    context: ScoringContext,
    *,
    text_capacity: int,
    layers: range,
) -> jax.Array:
    """Scores of one chunk in some layers, float32 [layers, clips] (docs/reference/xcomp.md#window-scores).

    Layers after the last of `layers` are not computed. Scores of clips outside `windows.valid` are
    meaningless.
    text_capacity: text tokens of the sequence, with padding.
    """

    def attend(q, k, v, scale):
        return attention(q, k, v, scale=scale, causal=True, rules=decoder.rules)

    capacity = RowCapacity(text_capacity, context.frames)
    scores = []
    for index, x in iterate_layers(decoder, x_BLD, lengths, capacity, schedule, attend):
        if index in layers:
            layer = get_layer(decoder.layers, index)
            tokens = schedule.layer_tokens[index]
            scores.append(clip_scores(layer, decoder, x[0], question, context, tokens))
        if index == layers[-1]:
            return jnp.stack(scores)
    raise ValueError(f"layers {layers} of {schedule.num_layers}")


def clip_scores(
    layer: DecoderLayer, decoder: Decoder, x_LD, question: Question, context: ScoringContext, tokens: int
) -> jax.Array:
    """Mean attention weight from the question's tokens to every clip of a chunk, float32 [clips].

    x_LD: input of the layer: prefix, frames x `tokens` visual tokens, text.
    """
    windows, prefix = context.windows, context.prefix
    clips, clip_tokens = context.frames // FRAME_GROUP, FRAME_GROUP * tokens
    size = windows.size or clips
    text_start = prefix + context.frames * tokens
    q_TNH, k_LKH = _text_queries_and_keys(layer.attention, layer.attention_norm(x_LD[None]), text_start)
    text_length = q_TNH.shape[0]
    length = prefix + size * clip_tokens + text_length
    angles = decoder.angles(jnp.arange(length)[None])
    q_TNH = rope.rotate(q_TNH[None].astype(jnp.float32), angles[:, -text_length:])[0]
    q_TNH = q_TNH / layer.attention.head_dim**0.5
    row = jnp.arange(text_length)
    is_question = (row >= question.start) & (row < question.end)
    key = jnp.arange(length) - (length - text_length)  # position in the text; negative before it
    last = question.end if windows.size else question.text_end
    mask = (key < last) & ((key <= row[:, None]) if context.causal else True)
    bias = jnp.where(mask, 0.0, MASK_VALUE)  # [T or 1, S]

    def window_scores(start):
        window = jax.lax.dynamic_slice_in_dim(k_LKH, prefix + start * clip_tokens, size * clip_tokens)
        keys = jnp.concatenate([k_LKH[:prefix], window, k_LKH[text_start:]])
        keys = rope.rotate(keys[None].astype(jnp.float32), angles)[0]
        grouped = q_TNH.reshape(text_length, keys.shape[1], -1, q_TNH.shape[-1])
        logits = jnp.einsum("tkgh,skh->kgts", grouped, keys, precision="highest")
        probs = jax.nn.softmax(logits + bias, axis=-1).mean(axis=(0, 1))
        mean = jnp.sum(probs * is_question[:, None], axis=0) / jnp.maximum(jnp.sum(is_question), 1)
        return mean[prefix : prefix + size * clip_tokens].reshape(size, clip_tokens).mean(axis=-1)

    starts = jnp.asarray(windows.starts(clips))
    scores_WC = jax.lax.map(window_scores, starts)
    total = jnp.zeros(clips).at[starts[:, None] + jnp.arange(size)].add(scores_WC)
    return total / jnp.asarray(windows.coverage(clips)).clip(1)


def _text_queries_and_keys(attention, x_1LD, text_start: int):
    """Queries of the text from `text_start` on and keys of all tokens, before RoPE: [T, N, H], [L, K, H]."""
    q = attention.q(x_1LD[:, text_start:]).reshape(1, x_1LD.shape[1] - text_start, -1, attention.head_dim)
    k = attention.k(x_1LD).reshape(1, x_1LD.shape[1], -1, attention.head_dim)
    if attention.q_norm is not None:
        q, k = attention.q_norm(q), attention.k_norm(k)
    return q[0], k[0]


class FrameScores:
    """Sums of clip scores over chunks and rounds, per layer and frame."""

    def __init__(self, frames: int, layers: int):
        self.total_LF = np.zeros((layers, frames))
        self.count_F = np.zeros(frames, int)

    def add(self, start: int, scores_LC: np.ndarray, windows: ScoringWindows) -> None:
        """Adds the scores of the chunk at frame `start`, a clip's to each of its 8 frames.

        Scores of clips outside `windows.valid` and non-finite ones are left out.
        """
        frames = self.count_F.size
        clips = np.flatnonzero(windows.valid(scores_LC.shape[1]) & np.isfinite(scores_LC).all(axis=0))
        for clip in clips:
            # The number of frames is a multiple of 8, so that these are different frames.
            indices = chunk_indices(start + clip * FRAME_GROUP, FRAME_GROUP, frames)
            self.total_LF[:, indices] += scores_LC[:, [clip]]
            self.count_F[indices] += 1

    def scores(self) -> np.ndarray:
        """Per frame the sum over layers of its mean score, float64 [F]; 0 for a frame without any score."""
        return (self.total_LF / np.maximum(self.count_F, 1)).sum(axis=0)


def top_frames(scores_F: np.ndarray, count: int) -> np.ndarray:
    """The `count` frames with the highest scores, in time order, int64 [n]; of equal ones the earlier."""
    if count >= len(scores_F):
        return np.arange(len(scores_F))
    return np.sort(np.argsort(-scores_F, kind="stable")[:count])


def round_to_frame_groups(frames: int, wanted: int) -> int:
    """`wanted` rounded down to a multiple of 8 frames, as clips require: at least 8, at most `frames`."""
    return min(frames, max(FRAME_GROUP, wanted // FRAME_GROUP * FRAME_GROUP))
