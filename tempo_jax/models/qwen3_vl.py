"""Qwen3-VL: a vision tower whose tokens stand among the text tokens of a decoder (facts/tempo.md §1.2)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from tempo_jax.models.config import Qwen3VLConfig
from tempo_jax.models.decoder import Decoder
from tempo_jax.models.vision import VisionTower
from tempo_jax.sharding import apart, constrain


class VisionOutput(NamedTuple):
    """What the vision tower makes of S segments with V visual tokens each."""

    tokens_SVD: jax.Array
    deepstack_FSVD: jax.Array


class PromptBatch(NamedTuple):
    """Prompts, right-padded; int32."""

    token_ids_SL: jax.Array
    visual_index_SL: jax.Array  # index among the row's visual tokens, -1 where there is text
    positions_3SL: jax.Array


class Qwen3VL(nnx.Module):
    """Vision tower and text decoder: what the converter calls `qwen3-vl`."""

    def __init__(self, config: Qwen3VLConfig, *, rngs: nnx.Rngs, stacked: bool = True):
        self.config = config
        self.vision = VisionTower(config.vision, rngs=rngs, stacked=stacked)
        self.text = Decoder(config.text, rngs=rngs, stacked=stacked)

    def __call__(self, visual: VisionOutput, rows: PromptBatch, *, remat: bool = False) -> jax.Array:
        """Hidden states [S, L, D]; `self.text.logits` makes logits of them."""
        x, deepstack = self.embed(visual, rows)
        return self.text(x, rows.positions_3SL, deepstack_FBLD=deepstack, remat=remat)

    @apart()
    def encode_frames(self, frames_SFHWC: jax.Array, *, remat: bool = False) -> VisionOutput:
        """The vision tower over S segments of uint8 frames already at the model's size."""
        config = self.config.vision
        segments, count, height, width, channels = frames_SFHWC.shape
        slices = count // config.temporal_patch_size
        x = self.vision.embed(frames_SFHWC.reshape(-1, config.temporal_patch_size, height, width, channels))
        grid = (height // config.patch_size, width // config.patch_size)
        return self._encode(constrain(x.reshape(segments, slices, *x.shape[1:]), "segments"), grid, remat)

    @apart()
    def encode_patches(self, patches_STNP, grid: tuple[int, int], *, remat: bool = False) -> VisionOutput:
        """The same over S segments of T slices of patches in -1..1, as published (facts/tempo.md §2.3): in
        merge order, a patch's numbers by channel, frame and row."""
        embed = self.vision.patch_embed
        return self._encode(embed(patches_STNP.astype(embed.kernel.dtype)), grid, remat)

    def _encode(self, x_STND, grid, remat) -> VisionOutput:
        segments, slices = x_STND.shape[:2]
        tokens, deepstack = self.vision(
            x_STND.reshape(segments * slices, *x_STND.shape[2:]), grid, remat=remat
        )
        width = tokens.shape[-1]
        return VisionOutput(
            tokens.reshape(segments, -1, width),
            deepstack.reshape(deepstack.shape[0], segments, slices * tokens.shape[1], width),
        )

    def embed(self, visual: VisionOutput, rows: PromptBatch):
        """The decoder's inputs [S, L, D] and what deepstack adds to its first layers [F, S, L, D]."""
        is_visual = (rows.visual_index_SL >= 0)[..., None]
        index = jnp.maximum(rows.visual_index_SL, 0)[..., None]
        tokens = jnp.take_along_axis(visual.tokens_SVD, index, axis=1)
        x = jnp.where(is_visual, tokens, self.text.embed(rows.token_ids_SL))
        deepstack = jnp.take_along_axis(visual.deepstack_FSVD, index[None], axis=2)
        return x, jnp.where(is_visual, deepstack, jnp.zeros_like(deepstack))
