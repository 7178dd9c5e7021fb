"""Tempo: compressor, projector and global LLM (facts/tempo.md §1.1, §1.5, §1.6)."""

import re

import jax
import jax.numpy as jnp
from flax import nnx

from tempo_jax.models import embeddings
from tempo_jax.models.compressor import Compressor
from tempo_jax.models.config import DecoderConfig, Qwen3VLConfig, TempoConfig
from tempo_jax.models.decoder import Decoder
from tempo_jax.models.layers import Linear, exact_gelu
from tempo_jax.models.qwen3_vl import Qwen3VL


def projector_layers(kind: str) -> list[int]:
    """Places of the affine maps in PyTorch's Sequential: linear -> [0], mlp2x_gelu -> [0, 2], ..."""
    if kind == "identity":
        return []
    if kind == "linear":
        return [0]
    match = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    if not match or int(match[1]) < 1:
        raise ValueError(f"unknown projector {kind!r}: use linear, identity or mlpNx_gelu")
    return [2 * i for i in range(int(match[1]))]


class Projector(nnx.Module):
    """Compressor width to LLM width: `linear`, `mlpNx_gelu` (exact GELU between) or `identity`."""

    def __init__(self, kind: str, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.layers = nnx.Dict(
            {
                str(place): Linear(
                    in_features if place == 0 else out_features, out_features, bias=True, rngs=rngs
                )
                for place in projector_layers(kind)
            }
        )

    def __call__(self, x):
        for place, linear in sorted(self.layers.items(), key=lambda item: int(item[0])):
            x = linear(x if place == "0" else exact_gelu(x))
        return x


class Tempo(nnx.Module):
    """The assembled system. Pure: the engine and the trainer decide what runs when."""

    def __init__(self, config: TempoConfig, *, rngs: nnx.Rngs, stacked: bool = True):
        self.config = config
        self.compressor = Compressor(config.compressor, config.memory_tokens, rngs=rngs, stacked=stacked)
        self.projector = Projector(
            config.projector, config.compressor.text.hidden_size, config.llm.hidden_size, rngs=rngs
        )
        self.llm = Decoder(config.llm, rngs=rngs, stacked=stacked)

    def assemble(self, token_ids_BL, memory_index_BL, memory_MD, num_shards: int = 1) -> jax.Array:
        """The LLM's input embeddings [B, L, D] by index.

        memory_MD: a pool of memory tokens (compressor width, not yet projected) shared by all rows;
        memory_index_BL: a row of the pool, -1 for text. shards: see embeddings.take.
        """
        text = self.llm.embed(token_ids_BL)
        rows = embeddings.gather_rows(
            self.projector(memory_MD).astype(text.dtype), memory_index_BL, num_shards
        )
        return jnp.where((memory_index_BL >= 0)[..., None], rows, text)


MODELS = {TempoConfig: Tempo, Qwen3VLConfig: Qwen3VL, DecoderConfig: Decoder}
