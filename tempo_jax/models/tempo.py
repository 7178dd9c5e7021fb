"""Tempo: compressor, projector and global LLM (docs/reference/tempo.md#data-flow)."""

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
    """Indices of the affine maps in PyTorch's Sequential: linear -> [0], mlp2x_gelu -> [0, 2], ..."""
    if kind == "identity":
        return []
    if kind == "linear":
        return [0]
    match = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    if not match or int(match[1]) < 1:
        raise ValueError(f"unknown projector {kind!r}: use linear, identity or mlpNx_gelu")
    return [2 * i for i in range(int(match[1]))]


class Projector(nnx.Module):
    """From the compressor's width to the LLM's: `linear`, `mlpNx_gelu` (exact GELU between) or `identity`."""

    def __init__(self, kind: str, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.layers = nnx.Dict(
            {
                str(i): Linear(in_features if i == 0 else out_features, out_features, bias=True, rngs=rngs)
                for i in projector_layers(kind)
            }
        )

    @jax.named_scope("projector")
    def __call__(self, x):
        for index, linear in sorted(self.layers.items(), key=lambda item: int(item[0])):
            x = linear(x if index == "0" else exact_gelu(x))
        return x


class Tempo(nnx.Module):
    """All networks of Tempo: parameters and pure functions, which the engine and the trainer call."""

    def __init__(self, config: TempoConfig, *, rngs: nnx.Rngs, stacked: bool = True):
        self.config = config
        self.compressor = Compressor(config.compressor, config.memory_tokens, rngs=rngs, stacked=stacked)
        self.projector = Projector(
            config.projector, config.compressor.text.hidden_size, config.llm.hidden_size, rngs=rngs
        )
        self.llm = Decoder(config.llm, rngs=rngs, stacked=stacked)

    def assemble(self, token_ids_BL, memory_index_BL, memory_MD, num_shards: int = 1) -> jax.Array:
        """The LLM's input embeddings [B, L, D] by index.

        memory_MD: a buffer of memory tokens (compressor width, before the projector) of all sequences;
        memory_index_BL: its rows, -1 for text. num_shards: as in embeddings.gather_rows.
        """
        text = self.llm.embed(token_ids_BL)
        rows = embeddings.gather_rows(
            self.projector(memory_MD).astype(text.dtype), memory_index_BL, num_shards
        )
        return jnp.where((memory_index_BL >= 0)[..., None], rows, text)


MODELS = {TempoConfig: Tempo, Qwen3VLConfig: Qwen3VL, DecoderConfig: Decoder}
