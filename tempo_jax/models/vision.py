"""The Qwen3-VL vision tower (docs/reference/tempo.md#compressor).

Attention stays within a temporal slice (two frames), so slices are a plain batch axis: no ragged
attention and no block-diagonal mask. Patches are in merge order: [H/32, W/32, 2, 2], flattened.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tempo_jax.models import layers, rope
from tempo_jax.models.config import VisionConfig
from tempo_jax.models.kernels.attention import attention, platform
from tempo_jax.models.layers import (
    Embedding,
    LayerNorm,
    Linear,
    exact_gelu,
    get_layer,
    make_layers,
    scan_layers,
)
from tempo_jax.models.resize import normalize
from tempo_jax.sharding import ENCODER_RULES


class VisionAttention(nnx.Module):
    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        self.num_heads = config.num_heads
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size, bias=True, rngs=rngs)
        self.proj = Linear(config.hidden_size, config.hidden_size, bias=True, rngs=rngs)

    def __call__(self, x_BND, angles_1NR):
        if platform() == "tpu":
            from tempo_jax.models.kernels import (
                vision_attention,  # imports Pallas, which other platforms do not need
            )

            if vision_attention.is_supported(x_BND.dtype, *x_BND.shape[1:], self.num_heads):
                qkv, bias = self.qkv.split_outputs(x_BND, 3), self.qkv.bias[...].reshape(3, -1)
                return self.proj(vision_attention.attend(qkv, bias, self.num_heads, angles_1NR[0]))
        q, k, v = (self.qkv.project_heads(x_BND, self.num_heads, part=part, parts=3) for part in range(3))
        q, k = (rope.rotate(x, angles_1NR) for x in (q, k))
        return self.proj.merge_heads(attention(q, k, v, rules=ENCODER_RULES))


class VisionMLP(nnx.Module):
    def __init__(self, in_features: int, hidden_size: int, out_features: int, *, rngs: nnx.Rngs):
        self.fc1 = Linear(in_features, hidden_size, bias=True, rngs=rngs)
        self.fc2 = Linear(hidden_size, out_features, bias=True, rngs=rngs)

    @jax.named_scope("mlp")
    def __call__(self, x):
        return self.fc2(nnx.gelu(self.fc1(x), approximate=True))


class VisionBlock(nnx.Module):
    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(config.hidden_size)
        self.attention = VisionAttention(config, rngs=rngs)
        self.norm2 = LayerNorm(config.hidden_size)
        self.mlp = VisionMLP(config.hidden_size, config.intermediate_size, config.hidden_size, rngs=rngs)

    @jax.named_scope("vision_block")
    def __call__(self, x_BND, angles_1NR):
        x_BND = x_BND + self.attention(self.norm1(x_BND), angles_1NR)
        return x_BND + self.mlp(self.norm2(x_BND))


class PatchMerger(nnx.Module):
    """Merges 2x2 patches to one visual token; its GELU is exact, unlike the blocks'.

    The final merger norms each patch; the deepstack mergers norm the four together.
    """

    def __init__(self, config: VisionConfig, *, norm_after_merge: bool, rngs: nnx.Rngs):
        merged = config.hidden_size * config.spatial_merge_size**2
        self.norm = LayerNorm(merged if norm_after_merge else config.hidden_size)
        self.fc1 = Linear(merged, merged, bias=True, rngs=rngs)
        self.fc2 = Linear(merged, config.out_hidden_size, bias=True, rngs=rngs)

    def __call__(self, x_BND):
        batch, merged = x_BND.shape[0], self.fc1.kernel.shape[0]
        if self.norm.scale.shape[0] == merged:
            x = self.norm(x_BND.reshape(batch, -1, merged))
        else:
            x = self.norm(x_BND).reshape(batch, -1, merged)
        return self.fc2(exact_gelu(self.fc1(x)))


class VisionTower(nnx.Module):
    """Patches to visual tokens and deepstack features; sharded by ENCODER_RULES."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs, stacked: bool = True):
        self.config = config
        self.patch_embed = Linear(config.patch_dim, config.hidden_size, bias=True, rngs=rngs)
        self.position = Embedding(config.num_position_embeddings, config.hidden_size, rngs=rngs)
        self.blocks = make_layers(
            lambda rngs: VisionBlock(config, rngs=rngs), config.depth, stacked=stacked, rngs=rngs
        )
        self.merger = PatchMerger(config, norm_after_merge=False, rngs=rngs)
        if config.deepstack_layers:
            self.deepstack = make_layers(
                lambda rngs: PatchMerger(config, norm_after_merge=True, rngs=rngs),
                len(config.deepstack_layers),
                stacked=stacked,
                rngs=rngs,
            )

    def embed(self, frames_BTHWC) -> jax.Array:
        """Embeds slices of frames, 0..255, [B, T=2, H, W, 3]: patches in merge order [B, N, D]."""
        merge, kernel, bias = self.config.spatial_merge_size, self.patch_embed.kernel, self.patch_embed.bias
        x = layers.patch_embed(normalize(frames_BTHWC), kernel[...], bias[...], self.config.patch_size)
        batch, height, width, size = x.shape
        x = x.reshape(batch, height // merge, merge, width // merge, merge, size)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, size)

    @jax.named_scope("vision_tower")
    def __call__(self, x_BND, grid: tuple[int, int], *, remat: bool = False):
        """Visual tokens [B, N/4, out] and deepstack features [F, B, N/4, out].

        x_BND: embedded patches of slices, in merge order; grid: (height, width) in patches.
        """
        x = x_BND + self._positions(grid).astype(x_BND.dtype)
        angles = self._angles(grid)

        def run_blocks(x, start: int, stop: int):
            def body(x, block, _):
                return block(x, angles)

            return scan_layers(body, x, self.blocks, start, stop, remat=remat, rules=ENCODER_RULES)

        features, start = [], 0
        taps = self.config.deepstack_layers  # in the mergers' order; features are in the blocks' order
        for tap in sorted(taps):
            x = run_blocks(x, start, tap + 1)
            features.append(get_layer(self.deepstack, taps.index(tap))(x))
            start = tap + 1
        x = run_blocks(x, start, self.config.depth)
        tokens = self.merger(x)
        return tokens, jnp.stack(features) if features else jnp.zeros((0, *tokens.shape), tokens.dtype)

    def _positions(self, grid):
        """The learned square grid of position embeddings, resampled bilinearly to `grid` (corners aligned).

        float32 [N, D].
        """
        indices, weights = _bilinear(grid, self.config)
        rows = self.position.embedding[...].astype(jnp.float32)[indices]
        return jnp.sum(rows * weights[..., None], axis=0)

    def _angles(self, grid):
        """RoPE angles, half of each head by rows and half by columns; float32 [1, N, head_dim/2]."""
        half = self.config.hidden_size // self.config.num_heads // 2
        frequencies = rope.inverse_frequencies(half, self.config.rope_theta)
        rows, columns = _merge_order(grid, self.config.spatial_merge_size)
        angles = [c.astype(np.float32)[:, None] * frequencies for c in (rows, columns)]
        return jnp.asarray(np.concatenate(angles, axis=-1))[None]


def _merge_order(grid, merge: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every patch, in merge order; int [N] each."""
    height, width = grid
    coordinates = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
    blocks = coordinates.reshape(2, height // merge, merge, width // merge, merge)
    rows, columns = blocks.transpose(0, 1, 3, 2, 4).reshape(2, -1)
    return rows, columns


def _bilinear(grid, config: VisionConfig) -> tuple[np.ndarray, np.ndarray]:
    """The four neighbors of every patch in the learned grid and their weights: [4, N] each."""
    side = int(config.num_position_embeddings**0.5)
    rows, columns = _merge_order(grid, config.spatial_merge_size)

    def neighbors(count, index):
        position = np.linspace(0, side - 1, count, dtype=np.float32)[index]
        low = position.astype(np.int32)
        return low, np.minimum(low + 1, side - 1), position - low

    top, bottom, dy = neighbors(grid[0], rows)
    left, right, dx = neighbors(grid[1], columns)
    corners = [(top, left), (top, right), (bottom, left), (bottom, right)]
    indices = np.stack([r * side + c for r, c in corners])
    weights = np.stack([(1 - dy) * (1 - dx), (1 - dy) * dx, dy * (1 - dx), dy * dx])
    return indices, weights.astype(np.float32)


def output_tokens(grid: tuple[int, int], config: VisionConfig) -> int:
    """Number of visual tokens of one slice."""
    return grid[0] * grid[1] // config.spatial_merge_size**2


def grid_of(height: int, width: int, config: VisionConfig) -> tuple[int, int]:
    """Patch grid (rows, columns) of a frame of this size in pixels."""
    return height // config.patch_size, width // config.patch_size
