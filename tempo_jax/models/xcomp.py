"""XComp's network, VideoChat-Flash: vision tower, token merging, projector and LLM.

Source: docs/reference/xcomp.md#components. The module holds parameters and pure functions; the engine and the
trainer call them. LP-Comp adds no weights: `xcomp.token_compression` runs `llm`.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from tempo_jax.models import layers
from tempo_jax.models.config import XCompConfig
from tempo_jax.models.decoder import Decoder
from tempo_jax.models.tempo import Projector
from tempo_jax.models.umt import UMTTower, merge, normalize

PROJECTOR = "mlp2x_gelu"


class XComp(nnx.Module):
    """Clips of frames and text to next-token logits."""

    def __init__(self, config: XCompConfig, *, rngs: nnx.Rngs, stacked: bool = True):
        self.config = config
        self.vision = UMTTower(config.vision, rngs=rngs, stacked=stacked)
        self.projector = Projector(PROJECTOR, config.vision.hidden_size, config.llm.hidden_size, rngs=rngs)
        self.llm = Decoder(config.llm, rngs=rngs, stacked=stacked)

    @jax.named_scope("vision")
    def features(self, frames_CTHWC: jax.Array, *, remat: bool | str = False) -> jax.Array:
        """Merged tokens [C, T*16, vision width] of C clips of T frames (T = 1: an image).

        frames_CTHWC: values 0..255, of the model's size. Tokens of different frames may be merged: 16 per
        frame is an average (docs/reference/xcomp.md#token-merging).
        """
        features = self.vision(normalize(frames_CTHWC), remat=remat)
        target = self.config.frame_tokens * frames_CTHWC.shape[1]
        return jax.lax.map(lambda x: merge(x, target)[0], features)

    def encode_clips(self, frames_CTHWC: jax.Array, *, remat: bool | str = False) -> jax.Array:
        """Visual tokens [C, T*16, LLM width] of C clips."""
        return self.projector(self.features(frames_CTHWC, remat=remat))

    def assemble(self, token_ids_BL, visual_index_BL, visual_MD, num_shards: int = 1) -> jax.Array:
        """The LLM's input embeddings [B, L, D] by index.

        visual_MD: a buffer of visual tokens for all sequences; visual_index_BL: its rows, -1 for text.
        num_shards: As in layers.gather_rows.
        """
        text = self.llm.embed(token_ids_BL)
        rows = layers.gather_rows(visual_MD.astype(text.dtype), visual_index_BL, num_shards)
        return jnp.where((visual_index_BL >= 0)[..., None], rows, text)
