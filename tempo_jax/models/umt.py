"""UMT: joint space-time attention over the frames of a clip, then token merging.

Sources: docs/reference/xcomp.md#vision-tower, docs/reference/xcomp.md#token-merging.

After the tower, the patches of a clip are merged to 16 tokens per frame by similarity: every step splits the
tokens into those at even and at odd indices and merges the most similar even tokens into their odd partners,
so that a step removes at most half of the tokens. Shapes are static. Ties go to the first token, where
PyTorch leaves the order undefined.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tempo_jax.models import layers
from tempo_jax.models.config import UMTConfig
from tempo_jax.models.kernels.attention import attention, platform
from tempo_jax.models.layers import LayerNorm, Linear, exact_gelu, make_layers, scan_layers
from tempo_jax.sharding import ENCODER_RULES

MEAN = (0.485, 0.456, 0.406)  # of pixels in 0..1; red, green, blue
STD = (0.229, 0.224, 0.225)
FINAL_EPS = 1e-12
# The position table is a sinusoid over this many frames and patches per side, resampled to the clip's size.
TABLE_FRAMES, TABLE_SIDE = 4, 14


class UMTAttention(nnx.Module):
    """Multi-head self-attention; queries and values have a bias, keys do not."""

    def __init__(self, config: UMTConfig, *, rngs: nnx.Rngs):
        self.num_heads = config.num_heads
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size, rngs=rngs)
        self.q_bias = nnx.Param(jnp.zeros(config.hidden_size))
        self.v_bias = nnx.Param(jnp.zeros(config.hidden_size))
        self.proj = Linear(config.hidden_size, config.hidden_size, bias=True, rngs=rngs)

    def __call__(self, x_BND):
        q_bias, v_bias = self.q_bias[...], self.v_bias[...]
        if platform() == "tpu":
            from tempo_jax.models.kernels import (
                vision_attention,  # imports Pallas, which other platforms do not need
            )

            if vision_attention.is_supported(x_BND.dtype, *x_BND.shape[1:], self.num_heads):
                qkv, bias = (
                    self.qkv.split_outputs(x_BND, 3),
                    jnp.stack([q_bias, jnp.zeros_like(q_bias), v_bias]),
                )
                return self.proj(vision_attention.attend(qkv, bias, self.num_heads))
        q, k, v = jnp.split(self.qkv(x_BND), 3, axis=-1)
        heads = (*x_BND.shape[:2], self.num_heads, -1)
        q, v = q + q_bias, v + v_bias
        out = attention(q.reshape(heads), k.reshape(heads), v.reshape(heads), rules=ENCODER_RULES)
        return self.proj(out.reshape(x_BND.shape))


class UMTMLP(nnx.Module):
    """An MLP with exact (erf) GELU."""

    def __init__(self, config: UMTConfig, *, rngs: nnx.Rngs):
        self.fc1 = Linear(config.hidden_size, config.intermediate_size, bias=True, rngs=rngs)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size, bias=True, rngs=rngs)

    @jax.named_scope("mlp")
    def __call__(self, x):
        return self.fc2(exact_gelu(self.fc1(x)))


class UMTBlock(nnx.Module):
    def __init__(self, config: UMTConfig, *, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(config.hidden_size)
        self.attention = UMTAttention(config, rngs=rngs)
        self.norm2 = LayerNorm(config.hidden_size)
        self.mlp = UMTMLP(config, rngs=rngs)

    @jax.named_scope("vision_block")
    def __call__(self, x_BND):
        x_BND = x_BND + self.attention(self.norm1(x_BND))
        return x_BND + self.mlp(self.norm2(x_BND))


class UMTTower(nnx.Module):
    """Clips of pixels to patch features; sharded by ENCODER_RULES."""

    def __init__(self, config: UMTConfig, *, rngs: nnx.Rngs, stacked: bool = True):
        self.config = config
        patch = config.in_channels * config.patch_size**2
        self.patch_embed = Linear(patch, config.hidden_size, bias=True, rngs=rngs)
        self.blocks = make_layers(
            lambda rngs: UMTBlock(config, rngs=rngs), config.depth, stacked=stacked, rngs=rngs
        )
        self.norm = LayerNorm(config.hidden_size, FINAL_EPS)

    def embed(self, pixels_CTHWC) -> jnp.ndarray:
        """Patch embeddings plus positions, [C, T*N, D], by frame, row and column."""
        clips, frames = pixels_CTHWC.shape[:2]
        kernel, bias = self.patch_embed.kernel[...], self.patch_embed.bias[...]
        x = layers.patch_embed(
            pixels_CTHWC.reshape(-1, 1, *pixels_CTHWC.shape[2:]), kernel, bias, self.config.patch_size
        )
        table = positions(frames, self.config.patches_per_side, self.config.hidden_size)
        return x.reshape(clips, *table.shape) + jnp.asarray(table).astype(x.dtype)

    @jax.named_scope("vision_tower")
    def __call__(self, pixels_CTHWC, *, remat: bool | str = False) -> jnp.ndarray:
        """Features [C, T*N, D] of C clips of T frames (T = 1: an image) of N patches.

        pixels_CTHWC: normalized (`normalize`), of the model's size.
        """
        x = self.embed(pixels_CTHWC)

        def body(x, block, _):
            return block(x)

        x = scan_layers(body, x, self.blocks, 0, self.config.depth, remat=remat, rules=ENCODER_RULES)
        return self.norm(x)


def normalize(frames_u8) -> jnp.ndarray:
    """Subtracts the mean and divides by the standard deviation of pixels 0..255 [..., 3]; float32."""
    mean, std = (np.asarray(x, np.float32) for x in (MEAN, STD))
    return (frames_u8.astype(jnp.float32) * np.float32(1 / 255) - mean) / std


@functools.lru_cache(maxsize=8)
def positions(frames: int, side: int, width: int) -> np.ndarray:
    """The fixed position table of a clip of `frames` frames (1: an image), float32 [frames*side*side, width].

    A sinusoid over TABLE_FRAMES x TABLE_SIDE x TABLE_SIDE positions (an image: one frame of them), resampled
    bicubically within each frame and linearly over time, as PyTorch's `interpolate` with align_corners=False.
    """
    count = 1 if frames == 1 else TABLE_FRAMES
    table = _sinusoid(count * TABLE_SIDE**2, width).reshape(count, TABLE_SIDE, TABLE_SIDE, width)
    if side != TABLE_SIDE:
        enlarge = _bicubic(TABLE_SIDE, side)
        table = np.einsum("yr,xc,trcd->tyxd", enlarge, enlarge, table, optimize=True)
    if frames != count:
        table = np.einsum("ft,tyxd->fyxd", _linear(count, frames), table)
    return table.reshape(frames * side * side, width).astype(np.float32)


def _sinusoid(count: int, width: int) -> np.ndarray:
    """Sine on even channels, cosine on odd ones; a pair of channels shares its frequency. float64."""
    channel = np.arange(width)
    angle = np.arange(count)[:, None] / 10_000 ** (2 * (channel // 2) / width)
    return np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))


def _bicubic(size_in: int, size_out: int) -> np.ndarray:
    """Weights [size_out, size_in] of cubic interpolation (a = -0.75), the border repeated."""
    a, positions = -0.75, (np.arange(size_out) + 0.5) * size_in / size_out - 0.5
    first = np.floor(positions).astype(int)
    weights = np.zeros((size_out, size_in))
    for tap in (-1, 0, 1, 2):
        x = np.abs(positions - first - tap)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        source = np.clip(first + tap, 0, size_in - 1)
        np.add.at(weights, (np.arange(size_out), source), np.where(x <= 1, near, far))
    return weights


def _linear(size_in: int, size_out: int) -> np.ndarray:
    """Weights [size_out, size_in] of linear interpolation between pixel centers, the border repeated."""
    positions = np.maximum((np.arange(size_out) + 0.5) * size_in / size_out - 0.5, 0)
    first = np.minimum(np.floor(positions).astype(int), size_in - 1)
    weights = np.zeros((size_out, size_in))
    np.add.at(weights, (np.arange(size_out), first), 1 - (positions - first))
    np.add.at(weights, (np.arange(size_out), np.minimum(first + 1, size_in - 1)), positions - first)
    return weights


METRIC_CHANNELS = 64  # tokens are compared by their mean over groups ("heads") of so many channels


def merge_counts(count: int, target: int) -> list[int]:
    """How many tokens each step removes on the way from `count` to `target` tokens.

    Raises:
      ValueError: `target` is larger than `count`, or below 1.
    """
    if target > count or target < 1:
        raise ValueError(f"{count} tokens cannot be merged to {target}")
    steps = []
    while count != target:
        steps.append(min(count - target, count // 2))
        count -= steps[-1]
    return steps


def merge(x_PD: jax.Array, target: int, metric: int = METRIC_CHANNELS) -> tuple[jax.Array, jax.Array]:
    """Merges one clip's tokens [P, D] to [target, D], and counts what each stands for, float32 [target].

    Sizes sum to P, and every token is the mean of those it stands for. The choice of pairs has no gradient;
    the means do.

    Args:
      x_PD: Tokens of a clip.
      target: Number of tokens to return.
      metric: Channels of a comparison, a divisor of D.
    """
    sizes = jnp.ones(x_PD.shape[0], jnp.float32)
    for count in merge_counts(x_PD.shape[0], target):
        x_PD, sizes = _merge_step(x_PD, sizes, count, metric)
    return x_PD, sizes


def _merge_step(x_PD, sizes_P, count: int, metric: int):
    """Merges the `count` most similar even tokens into their odd partners.

    Order of the result: the remaining even tokens, the most similar first (not in time), then the odd ones.
    """
    partners, similarity = _most_similar(x_PD, metric)
    order = jnp.argsort(-similarity, stable=True)
    merged_away, remaining = order[:count], order[count:]
    even, odd = x_PD[0::2].astype(jnp.float32), x_PD[1::2].astype(jnp.float32)
    even_sizes, odd_sizes = sizes_P[0::2], sizes_P[1::2]
    weighted = odd * odd_sizes[:, None]
    weighted = weighted.at[partners[merged_away]].add(even[merged_away] * even_sizes[merged_away, None])
    odd_sizes = odd_sizes.at[partners[merged_away]].add(even_sizes[merged_away])
    merged = jnp.concatenate([even[remaining], weighted / odd_sizes[:, None]])
    return merged.astype(x_PD.dtype), jnp.concatenate([even_sizes[remaining], odd_sizes])


def _most_similar(x_PD, metric: int):
    """Each even token's most similar odd token (the first of equal ones), and their cosine similarity."""
    x = jax.lax.stop_gradient(x_PD).astype(jnp.float32)
    x = x.reshape(x.shape[0], -1, metric).mean(axis=1)
    x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    similarity = jnp.matmul(x[0::2], x[1::2].T, precision="highest")
    return jnp.argmax(similarity, axis=-1), jnp.max(similarity, axis=-1)
