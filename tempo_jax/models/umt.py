"""UMT: joint space-time attention over the frames of a clip, then token merging (xcomp §1.2, §1.4).

After the tower, the patches of a clip become 16 tokens a frame by joining those that look alike: every step
splits the tokens into those at even and those at odd places and merges the most similar even ones into
their odd partners, so at most half of the tokens go at once. Shapes are static. Ties go to the first, where
PyTorch leaves them open.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tempo_jax.models import embeddings
from tempo_jax.models.config import UMTConfig
from tempo_jax.models.kernels.attention import attention, platform
from tempo_jax.models.layers import LayerNorm, Linear, exact_gelu, make_layers, scan_layers

MEAN = (0.485, 0.456, 0.406)  # of the pixels in 0..1, red, green, blue
STD = (0.229, 0.224, 0.225)
FINAL_EPS = 1e-12
# The position table is a sinusoid over this many frames and patches of a side, enlarged to the clip's.
TABLE_FRAMES, TABLE_SIDE = 4, 14


class UMTAttention(nnx.Module):
    """Queries and values have a bias, keys do not."""

    def __init__(self, config: UMTConfig, *, rngs: nnx.Rngs):
        self.num_heads = config.num_heads
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size, rngs=rngs)
        self.q_bias = nnx.Param(jnp.zeros(config.hidden_size))
        self.v_bias = nnx.Param(jnp.zeros(config.hidden_size))
        self.proj = Linear(config.hidden_size, config.hidden_size, bias=True, rngs=rngs)

    def __call__(self, x_BND):
        q_bias, v_bias = self.q_bias[...], self.v_bias[...]
        if platform() == "tpu":
            from tempo_jax.models.kernels import vision_attention  # Pallas: nobody else need import it

            if vision_attention.is_supported(x_BND.dtype, *x_BND.shape[1:], self.num_heads):
                qkv, bias = (
                    self.qkv.split_outputs(x_BND, 3),
                    jnp.stack([q_bias, jnp.zeros_like(q_bias), v_bias]),
                )
                return self.proj(vision_attention.attend(qkv, bias, self.num_heads))
        q, k, v = jnp.split(self.qkv(x_BND), 3, axis=-1)
        heads = (*x_BND.shape[:2], self.num_heads, -1)
        q, v = q + q_bias, v + v_bias
        out = attention(q.reshape(heads), k.reshape(heads), v.reshape(heads))
        return self.proj(out.reshape(x_BND.shape))


class UMTMLP(nnx.Module):
    """Exact (erf) GELU."""

    def __init__(self, config: UMTConfig, *, rngs: nnx.Rngs):
        self.fc1 = Linear(config.hidden_size, config.intermediate_size, bias=True, rngs=rngs)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size, bias=True, rngs=rngs)

    def __call__(self, x):
        return self.fc2(exact_gelu(self.fc1(x)))


class UMTBlock(nnx.Module):
    def __init__(self, config: UMTConfig, *, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(config.hidden_size)
        self.attention = UMTAttention(config, rngs=rngs)
        self.norm2 = LayerNorm(config.hidden_size)
        self.mlp = UMTMLP(config, rngs=rngs)

    def __call__(self, x_BND):
        x_BND = x_BND + self.attention(self.norm1(x_BND))
        return x_BND + self.mlp(self.norm2(x_BND))


class UMTTower(nnx.Module):
    """Clips of pixels to patch features."""

    def __init__(self, config: UMTConfig, *, rngs: nnx.Rngs, stacked: bool = True):
        self.config = config
        patch = config.in_channels * config.patch_size**2
        self.patch_embed = Linear(patch, config.hidden_size, bias=True, rngs=rngs)
        self.blocks = make_layers(
            lambda rngs: UMTBlock(config, rngs=rngs), config.depth, stacked=stacked, rngs=rngs
        )
        self.norm = LayerNorm(config.hidden_size, FINAL_EPS)

    def embed(self, pixels_CTHWC) -> jnp.ndarray:
        """Patches and their places, before the blocks: [C, T*N, D], frame after frame, row after row."""
        clips, frames = pixels_CTHWC.shape[:2]
        kernel, bias = self.patch_embed.kernel[...], self.patch_embed.bias[...]
        x = embeddings.patch_embed(
            pixels_CTHWC.reshape(-1, 1, *pixels_CTHWC.shape[2:]), kernel, bias, self.config.patch_size
        )
        table = positions(frames, self.config.patches_per_side, self.config.hidden_size)
        return x.reshape(clips, *table.shape) + jnp.asarray(table).astype(x.dtype)

    def __call__(self, pixels_CTHWC, *, remat: bool | str = False) -> jnp.ndarray:
        """Features [C, T*N, D] of C clips of T frames (T = 1: an image) of N patches.

        pixels_CTHWC: normalised (`normalise`), at the model's size.
        """
        x = self.embed(pixels_CTHWC)
        x = scan_layers(lambda x, block, _: block(x), x, self.blocks, 0, self.config.depth, remat=remat)
        return self.norm(x)


def normalize(frames_u8) -> jnp.ndarray:
    """Pixel values 0..255 [..., 3] to what the tower takes, float32."""
    mean, std = (np.asarray(x, np.float32) for x in (MEAN, STD))
    return (frames_u8.astype(jnp.float32) * np.float32(1 / 255) - mean) / std


@functools.lru_cache(maxsize=8)
def positions(frames: int, side: int, width: int) -> np.ndarray:
    """The fixed position table of a clip of `frames` frames (1: an image), float32 [frames*side*side, width].

    A sinusoid over TABLE_FRAMES x TABLE_SIDE x TABLE_SIDE places (an image: one frame of them), enlarged
    within each frame bicubically and over time linearly, as PyTorch's interpolate without aligned corners.
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
    """Sine on even channels, cosine on odd, a pair of channels sharing its frequency; float64."""
    channel = np.arange(width)
    angle = np.arange(count)[:, None] / 10_000 ** (2 * (channel // 2) / width)
    return np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))


def _bicubic(size_in: int, size_out: int) -> np.ndarray:
    """Weights [size_out, size_in] of Keys' kernel with a = -0.75, the border repeated."""
    a, places = -0.75, (np.arange(size_out) + 0.5) * size_in / size_out - 0.5
    first = np.floor(places).astype(int)
    weights = np.zeros((size_out, size_in))
    for tap in (-1, 0, 1, 2):
        x = np.abs(places - first - tap)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        source = np.clip(first + tap, 0, size_in - 1)
        np.add.at(weights, (np.arange(size_out), source), np.where(x <= 1, near, far))
    return weights


def _linear(size_in: int, size_out: int) -> np.ndarray:
    """Weights [size_out, size_in] of linear interpolation between centres, the border repeated."""
    places = np.maximum((np.arange(size_out) + 0.5) * size_in / size_out - 0.5, 0)
    first = np.minimum(np.floor(places).astype(int), size_in - 1)
    weights = np.zeros((size_out, size_in))
    np.add.at(weights, (np.arange(size_out), first), 1 - (places - first))
    np.add.at(weights, (np.arange(size_out), np.minimum(first + 1, size_in - 1)), places - first)
    return weights


METRIC_CHANNELS = 64  # channels that tokens are compared in: the mean over "heads" of that size


def merge_counts(count: int, target: int) -> list[int]:
    """How many tokens each step removes on the way from `count` to `target`.

    Raises ValueError where there is no way: more tokens wanted than there are.
    """
    if target > count or target < 1:
        raise ValueError(f"{count} tokens cannot be merged to {target}")
    steps = []
    while count != target:
        steps.append(min(count - target, count // 2))
        count -= steps[-1]
    return steps


def merge(x_PD: jax.Array, target: int, metric: int = METRIC_CHANNELS) -> tuple[jax.Array, jax.Array]:
    """One clip's tokens [P, D] to [target, D], and how many each stands for, float32 [target].

    Sizes sum to P and every token is the mean of those it stands for. Which are joined does not depend
    on gradients; the means do. `metric`: channels of a comparison, a divisor of D.
    """
    sizes = jnp.ones(x_PD.shape[0], jnp.float32)
    for count in merge_counts(x_PD.shape[0], target):
        x_PD, sizes = _merge_step(x_PD, sizes, count, metric)
    return x_PD, sizes


def _merge_step(x_PD, sizes_P, count: int, metric: int):
    """Merges the `count` most similar even tokens away.

    Order after it: even tokens that stay, the most similar first (not in time), then the odd ones.
    """
    sources, best = _most_similar(x_PD, metric)
    order = jnp.argsort(-best, stable=True)
    gone, staying = order[:count], order[count:]
    even, odd = x_PD[0::2].astype(jnp.float32), x_PD[1::2].astype(jnp.float32)
    even_sizes, odd_sizes = sizes_P[0::2], sizes_P[1::2]
    weighted = odd * odd_sizes[:, None]
    weighted = weighted.at[sources[gone]].add(even[gone] * even_sizes[gone, None])
    odd_sizes = odd_sizes.at[sources[gone]].add(even_sizes[gone])
    merged = jnp.concatenate([even[staying], weighted / odd_sizes[:, None]])
    return merged.astype(x_PD.dtype), jnp.concatenate([even_sizes[staying], odd_sizes])


def _most_similar(x_PD, metric: int):
    """Each even token's most similar odd one (the first of equals), and their cosine."""
    x = jax.lax.stop_gradient(x_PD).astype(jnp.float32)
    x = x.reshape(x.shape[0], -1, metric).mean(axis=1)
    x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    similarity = jnp.matmul(x[0::2], x[1::2].T, precision="highest")
    return jnp.argmax(similarity, axis=-1), jnp.max(similarity, axis=-1)
