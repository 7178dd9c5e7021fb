"""Qwen3-VL: a vision tower whose tokens stand among the text tokens of a decoder.

See docs/reference/tempo.md#compressor.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from tempo_jax.models.config import Qwen3VLConfig
from tempo_jax.models.decoder import Decoder
from tempo_jax.models.vision import VisionTower
from tempo_jax.sharding import DEFAULT_RULES, ENCODER_RULES, ShardingRules, constrain


class VisionOutput(NamedTuple):
    """Visual tokens of S segments, V each, and features that are added after the decoder's first layers."""

    tokens_SVD: jax.Array
    deepstack_FSVD: jax.Array


class PromptBatch(NamedTuple):
    """Prompts with visual tokens, right-padded; int32."""

    token_ids_SL: jax.Array
    visual_index_SL: jax.Array  # index among the prompt's visual tokens, -1 where there is text
    positions_3SL: jax.Array


class Qwen3VL(nnx.Module):
    """Vision tower and text decoder: what the converter calls `qwen3-vl`."""

    def __init__(
        self,
        config: Qwen3VLConfig,
        *,
        rngs: nnx.Rngs,
        stacked: bool = True,
        text_rules: ShardingRules = DEFAULT_RULES,
    ):
        self.config = config
        self.vision = VisionTower(config.vision, rngs=rngs, stacked=stacked)
        self.text = Decoder(config.text, rngs=rngs, stacked=stacked, rules=text_rules)

    def __call__(self, visual: VisionOutput, prompts: PromptBatch, *, remat: bool = False) -> jax.Array:
        """Hidden states [S, L, D]; `self.text.logits` makes logits of them."""
        x, deepstack = self.embed(visual, prompts)
        return self.text(x, prompts.positions_3SL, deepstack_FBLD=deepstack, remat=remat)

    def encode_frames(self, frames_SFHWC: jax.Array, *, remat: bool = False) -> VisionOutput:
        """Runs the vision tower over S segments of F uint8 frames of the model's size."""
        config = self.config.vision
        segments, count, height, width, channels = frames_SFHWC.shape
        slices = count // config.temporal_patch_size
        x = self.vision.embed(frames_SFHWC.reshape(-1, config.temporal_patch_size, height, width, channels))
        grid = (height // config.patch_size, width // config.patch_size)
        x = constrain(x.reshape(segments, slices, *x.shape[1:]), "batch", ENCODER_RULES)
        return self._encode(x, grid, remat)

    def encode_patches(self, patches_STNP, grid: tuple[int, int], *, remat: bool = False) -> VisionOutput:
        """Runs the vision tower over S segments of T slices of N patches, as processors make them.

        patches_STNP: pixels in -1..1, patches in merge order, a patch's values by channel, frame and row
        (docs/reference/tempo.md#frame-sizes).
        """
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

    def embed(self, visual: VisionOutput, prompts: PromptBatch):
        """The decoder's inputs [S, L, D] and what deepstack adds to its first layers [F, S, L, D]."""
        is_visual = (prompts.visual_index_SL >= 0)[..., None]
        index = jnp.maximum(prompts.visual_index_SL, 0)[..., None]
        tokens = jnp.take_along_axis(visual.tokens_SVD, index, axis=1)
        x = jnp.where(is_visual, tokens, self.text.embed(prompts.token_ids_SL))
        deepstack = jnp.take_along_axis(visual.deepstack_FSVD, index[None], axis=2)
        return x, jnp.where(is_visual, deepstack, jnp.zeros_like(deepstack))
