"""QC-Comp: which frames stay, by how much the question attends to them (xcomp §3).

Frames are scored in overlapping chunks of a video that goes in circles (`Windows`, `chunk_starts`). A score
is the attention from the question to a clip of 8 frames, in one layer, over a window with positions of its
own (`layer_scores`): the hidden states come from the whole chunk, only this attention is local, and it is
computed for the rows of the question alone. Logits are scaled before they are formed, and softmax and means
are float32: the released code forms them in float16, where they can overflow (§6.2, 9). From scores to
frames it is numpy in float64 (`FrameScores`, `keep`).
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

STRIDE = 512  # frames between the chunks of a round


@dataclasses.dataclass(frozen=True)
class ScoringWindows:
    """Clips of 8 frames that a question looks at together, and how far the next window is.

    The published scorer is (8, 4). `size` 0: one window, the whole chunk (the scorer "global").
    """

    size: int = 8
    hop: int = 4

    @property
    def overlap(self) -> int:
        """Frames that a chunk has beyond its stride: its outer clips are in fewer windows than others."""
        return 2 * FRAME_GROUP * self.hop if self.size else 0

    def starts(self, clips: int) -> list[int]:
        return list(range(0, clips - self.size + 1, self.hop)) if self.size else [0]

    def coverage(self, clips: int) -> np.ndarray:
        """How many windows hold each clip, int [clips]."""
        size = self.size or clips
        counts = np.zeros(clips, int)
        for start in self.starts(clips):
            counts[start : start + size] += 1
        return counts

    def valid(self, clips: int) -> np.ndarray:
        """Clips whose scores count, those in as many windows as any: bool [clips]."""
        counts = self.coverage(clips)
        return (counts == counts.max()) & (counts > 0)


LOCAL, GLOBAL = ScoringWindows(), ScoringWindows(size=0, hop=0)


def stride(frames: int, windows: ScoringWindows) -> int:
    """Frames from chunk to chunk: 512, or of shorter videos a power of two of whole hops, so that few
    different chunk lengths are ever compiled for."""
    unit = FRAME_GROUP * max(windows.hop, 1)
    hops = max(1, frames // unit)
    return min(STRIDE, unit << (hops.bit_length() - 1))


def chunk_frames(frames: int, windows: ScoringWindows) -> int:
    """Length of every chunk of a video of so many frames."""
    return stride(frames, windows) + windows.overlap


def chunk_starts(frames: int, repeats: int, windows: ScoringWindows = LOCAL) -> list[int]:
    """First frame of every chunk, `repeats` rounds of them, each round shifted against the last.

    The shift of a round is stride/repeats plus 8/repeats frames, so that the clips' borders move too.
    """
    step = stride(frames, windows)
    rounds = -(-frames // step)
    shift = FRAME_GROUP // repeats + step // repeats
    return [(step * i + (i // rounds) * shift) % frames for i in range(repeats * rounds)]


def chunk_indices(start: int, length: int, frames: int) -> np.ndarray:
    """Frames of a chunk, int64 [length]; past the end of the video comes its start."""
    return (start + np.arange(length)) % frames


MASK_VALUE = -1e30


class Question(NamedTuple):
    """Places in the text after the video, counted from its start; int32, may be traced."""

    start: jax.Array  # the first row that asks
    end: jax.Array  # one past the last: where the assistant's header starts
    text_end: jax.Array  # one past the header


def layer_scores(
    decoder: Decoder,
    x_BLD,
    rows: RowLengths,
    room: RowCapacity,
    plan: DropSchedule,
    question: Question,
    *,
    prefix: int,
    layers: range,
    windows: ScoringWindows,
    causal: bool,
) -> jax.Array:
    """Scores of one chunk in some layers, float32 [layers, clips]; those of §3.3 with `windows` in mind.

    Layers past the last one are not computed. A clip that `windows.valid` leaves out has a score that
    counts for nothing. prefix: text tokens before the video.
    """

    def attend(q, k, v, scale):
        return attention(q, k, v, scale=scale, causal=True)

    found = []
    for index, x in iterate_layers(decoder, x_BLD, rows, room, plan, attend):
        if index in layers:
            block = get_layer(decoder.layers, index)
            found.append(
                clip_scores(
                    block, decoder, x[0], question, prefix=prefix, frames=room.frames,
                    tokens=plan.tokens[index + 1], windows=windows, causal=causal,
                )
            )  # fmt: skip
        if index == layers[-1]:
            return jnp.stack(found)
    raise ValueError(f"layers {layers} of {plan.layers}")


def clip_scores(
    block: DecoderLayer,
    decoder: Decoder,
    x_LD,
    question: Question,
    *,
    prefix: int,
    frames: int,
    tokens: int,
    windows: ScoringWindows,
    causal: bool,
) -> jax.Array:
    """Mean attention of the question's rows to every clip of a chunk, float32 [clips].

    x_LD: what enters the layer: prefix, frames x tokens visual tokens, text. causal: a row sees no later
    text; False is the released form, where it sees all up to the assistant's header ("global": and that).
    """
    clips, per_clip = frames // FRAME_GROUP, FRAME_GROUP * tokens
    size = windows.size or clips
    visual = prefix + frames * tokens
    q_TNH, k_LKH = _text_queries_and_keys(block.attention, block.attention_norm(x_LD[None]), visual)
    text = q_TNH.shape[0]
    length = prefix + size * per_clip + text
    angles = decoder.angles(jnp.arange(length)[None])
    q_TNH = rope.rotate(q_TNH[None].astype(jnp.float32), angles[:, -text:])[0] / block.attention.head_dim**0.5
    row = jnp.arange(text)
    asks = (row >= question.start) & (row < question.end)
    key = jnp.arange(length) - (length - text)  # place in the text, negative before it
    last = question.end if windows.size else question.text_end
    seen = (key < last) & ((key <= row[:, None]) if causal else True)
    bias = jnp.where(seen, 0.0, MASK_VALUE)  # [T or 1, S]

    def window(start):
        own = jax.lax.dynamic_slice_in_dim(k_LKH, prefix + start * per_clip, size * per_clip)
        keys = jnp.concatenate([k_LKH[:prefix], own, k_LKH[visual:]])
        keys = rope.rotate(keys[None].astype(jnp.float32), angles)[0]
        grouped = q_TNH.reshape(text, keys.shape[1], -1, q_TNH.shape[-1])
        logits = jnp.einsum("tkgh,skh->kgts", grouped, keys, precision="highest")
        shares = jax.nn.softmax(logits + bias, axis=-1).mean(axis=(0, 1))
        rows = jnp.sum(shares * asks[:, None], axis=0) / jnp.maximum(jnp.sum(asks), 1)
        return rows[prefix : prefix + size * per_clip].reshape(size, per_clip).mean(axis=-1)

    starts = jnp.asarray(windows.starts(clips))
    found_WC = jax.lax.map(window, starts)
    total = jnp.zeros(clips).at[starts[:, None] + jnp.arange(size)].add(found_WC)
    return total / jnp.asarray(windows.coverage(clips)).clip(1)


def _text_queries_and_keys(attention, x_1LD, visual: int):
    """Queries of the text after place `visual` and keys of everything, not rotated: [T, N, H], [L, K, H]."""
    q = attention.q(x_1LD[:, visual:]).reshape(1, x_1LD.shape[1] - visual, -1, attention.head_dim)
    k = attention.k(x_1LD).reshape(1, x_1LD.shape[1], -1, attention.head_dim)
    if attention.q_norm is not None:
        q, k = attention.q_norm(q), attention.k_norm(k)
    return q[0], k[0]


class FrameScores:
    """Sums of the clips' scores over chunks and repeats, per layer and frame."""

    def __init__(self, frames: int, layers: int):
        self.total_LF = np.zeros((layers, frames))
        self.count_F = np.zeros(frames, int)

    def add(self, start: int, scores_LC: np.ndarray, windows: ScoringWindows) -> None:
        """The scores of one chunk, a clip's for each of its 8 frames; what is invalid or no number is not."""
        frames = self.count_F.size
        clips = np.flatnonzero(windows.valid(scores_LC.shape[1]) & np.isfinite(scores_LC).all(axis=0))
        for clip in clips:
            own = chunk_indices(
                start + clip * FRAME_GROUP, FRAME_GROUP, frames
            )  # frames count in eights: no two are one
            self.total_LF[:, own] += scores_LC[:, [clip]]
            self.count_F[own] += 1

    def scores(self) -> np.ndarray:
        """Per frame the sum over layers of its mean score, float64 [F]; 0 for a frame without any."""
        return (self.total_LF / np.maximum(self.count_F, 1)).sum(axis=0)


def top_frames(scores_F: np.ndarray, count: int) -> np.ndarray:
    """The `count` frames of the highest scores, in time order; of equals the earlier ones. int64 [n]."""
    if count >= len(scores_F):
        return np.arange(len(scores_F))
    return np.sort(np.argsort(-scores_F, kind="stable")[:count])


def round_to_frame_groups(frames: int, wanted: int) -> int:
    """`wanted` frames in eights, as clips need them: at least 8, at most all."""
    return min(frames, max(FRAME_GROUP, wanted // FRAME_GROUP * FRAME_GROUP))
