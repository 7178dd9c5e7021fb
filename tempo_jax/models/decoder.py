"""One decoder for Qwen2.5, Qwen3 and the text half of Qwen3-VL (docs/reference/tempo.md#global-llm)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from tempo_jax.models import cpu_workarounds, rope
from tempo_jax.models.config import DecoderConfig
from tempo_jax.models.kernels.attention import attend_to_cache, attention, platform
from tempo_jax.models.layers import (
    Embedding,
    Linear,
    RMSNorm,
    get_layer,
    make_layers,
    num_layers,
    scan_layers,
)
from tempo_jax.models.tpu_workarounds import constrain_cache_layout, matvec_as_matmul
from tempo_jax.sharding import DEFAULT_RULES, ShardingRules

KV = tuple[jax.Array, jax.Array]  # keys and values of one layer, each [B, S, kv_heads, head_dim]


class QKV(NamedTuple):
    """Inputs of attention: normed and rotated queries and keys, and values, [B, L, heads, head_dim] each."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    scale: float  # still to be applied to the scores; 1.0 where the queries are scaled


class Attention(nnx.Module):
    """Projections of grouped-query attention, with q/k norm (Qwen3) or q/k/v bias (Qwen2.5)."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs, rules: ShardingRules = DEFAULT_RULES):
        q_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.head_dim, self.rules = config.head_dim, rules
        self.q = Linear(config.hidden_size, q_size, bias=config.qkv_bias, rngs=rngs)
        self.k = Linear(config.hidden_size, kv_size, bias=config.qkv_bias, rngs=rngs)
        self.v = Linear(config.hidden_size, kv_size, bias=config.qkv_bias, rngs=rngs)
        self.o = Linear(q_size, config.hidden_size, rngs=rngs)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else None

    @jax.named_scope("qkv")
    def qkv(self, x_BLD, angles_BLR) -> QKV:
        q, k, v = (projection(x_BLD) for projection in (self.q, self.k, self.v))
        scale = self.head_dim**-0.5
        if kernels := self._qkv_kernels(x_BLD):
            q = kernels.to_head_major(
                q, norm=self.q_norm, angles_BLR=angles_BLR, scale=scale, rules=self.rules
            )
            k = kernels.to_head_major(k, norm=self.k_norm, angles_BLR=angles_BLR, rules=self.rules)
            v = kernels.to_head_major(v, rules=self.rules)
            return QKV(*(x.swapaxes(1, 2) for x in (q, k, v)), 1.0)
        q, k, v = (x.reshape(*x.shape[:2], -1, self.head_dim) for x in (q, k, v))
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return QKV(rope.rotate(q, angles_BLR), rope.rotate(k, angles_BLR), v, scale)

    def decode_step(self, x_B1D, angles_B1R, cache: KV, position_B) -> tuple[jax.Array, KV]:
        """Attention of one new token per sequence, whose cache holds `position_B` tokens.

        cache: [B, kv_heads, S, H]. Returns the block's output [B, 1, D] and the cache with the new token.
        """

        def write(k_BKH, v_BKH) -> KV:
            new = zip(cache, (k_BKH, v_BKH), strict=True)
            return tuple(
                constrain_cache_layout(_write_token(old, x, position_B), self.rules) for old, x in new
            )

        if kernel := _decode_kernel(x_B1D.dtype, self.head_dim):
            projected = tuple(projection(x_B1D) for projection in (self.q, self.k, self.v))
            norms = None if self.q_norm is None else (self.q_norm, self.k_norm)
            y, k = kernel.attend(projected, cache, position_B, angles_B1R, norms=norms, rules=self.rules)
            k, v = (x.reshape(len(x), -1, self.head_dim) for x in (k, projected[2]))
            return self.o(y), write(k, v)
        q, k, v, scale = self.qkv(x_B1D, angles_B1R)
        cache_with_token = write(k[:, 0], v[:, 0])
        valid = jnp.arange(cache_with_token[0].shape[2]) <= position_B[:, None]
        out = attend_to_cache(q, *cache_with_token, valid, scale, self.rules)
        return self.output_projection(out), cache_with_token

    @jax.named_scope("output_projection")
    def output_projection(self, x_BLNH):
        if kernels := self._qkv_kernels(x_BLNH):
            return self.o(kernels.from_head_major(x_BLNH.swapaxes(1, 2), rules=self.rules))
        return self.o(x_BLNH.reshape(*x_BLNH.shape[:2], -1))

    def _qkv_kernels(self, x_BL):
        """The module that norms, rotates and transposes heads on a TPU; None where it does not apply."""
        if platform() != "tpu":
            return None
        from tempo_jax.models.kernels import qk_norm_rope  # imports Pallas, which other platforms do not need

        supported = qk_norm_rope.is_supported(x_BL.dtype, x_BL.shape[1], self.head_dim)
        return qk_norm_rope if supported else None


def _write_token(cache_BKSH, x_BKH, position_B):
    """Writes each sequence's token to its slot, in place.

    Row by row: with a scatter, XLA:TPU copies each whole cache twice (docs/results/optimization-log.md).
    """
    for row, x_KH in enumerate(x_BKH):
        start = (row, 0, position_B[row], 0)
        cache_BKSH = jax.lax.dynamic_update_slice(cache_BKSH, x_KH[None, :, None], start)
    return cache_BKSH


def _decode_kernel(dtype, head_dim: int):
    """The module of the decode attention kernel on a TPU; None where it does not apply."""
    if platform() != "tpu":
        return None
    from tempo_jax.models.kernels import decode_attention

    return decode_attention if decode_attention.is_supported(dtype, head_dim) else None


class MLP(nnx.Module):
    """SwiGLU."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.gate = Linear(config.hidden_size, config.intermediate_size, rngs=rngs)
        self.up = Linear(config.hidden_size, config.intermediate_size, rngs=rngs)
        self.down = Linear(config.intermediate_size, config.hidden_size, rngs=rngs)

    @jax.named_scope("mlp")
    def __call__(self, x):
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


# (queries, keys, values, scale of the scores) -> [B, L, N, H]; masks and caches are the caller's.
AttentionFunction = Callable[[jax.Array, jax.Array, jax.Array, float], jax.Array]


class DecoderLayer(nnx.Module):
    """Pre-norm attention and MLP with residual connections."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs, rules: ShardingRules = DEFAULT_RULES):
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config, rngs=rngs, rules=rules)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config, rngs=rngs)

    @jax.named_scope("decoder_layer")
    def __call__(self, x_BLD, angles_BLR, attend: AttentionFunction):
        qkv = self.attention.qkv(self.attention_norm(x_BLD), angles_BLR)
        x_BLD = x_BLD + self.attention.output_projection(attend(*qkv))
        return x_BLD + self.mlp(self.mlp_norm(x_BLD))

    @jax.named_scope("decoder_layer")
    def decode_step(self, x_B1D, angles_B1R, cache: KV, position_B) -> tuple[jax.Array, KV]:
        """One new token per sequence, as `Attention.decode_step`."""
        x_normed = self.attention_norm(x_B1D)
        attended, cache = self.attention.decode_step(x_normed, angles_B1R, cache, position_B)
        x_B1D = x_B1D + attended
        return x_B1D + self.mlp(self.mlp_norm(x_B1D)), cache


class Decoder(nnx.Module):
    """Token embedding, decoder layers, final norm and language-model head.

    Hidden states are returned after the final norm. Positions are int [B, L], or [3, B, L] for M-RoPE.
    Sequences are right-padded: under causal attention no token attends to the padding after it.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        rngs: nnx.Rngs,
        stacked: bool = True,
        rules: ShardingRules = DEFAULT_RULES,
    ):
        self.config, self.rules = config, rules
        self.embed = Embedding(config.vocab_size, config.hidden_size, rngs=rngs)
        self.layers = make_layers(
            lambda rngs: DecoderLayer(config, rngs=rngs, rules=rules),
            config.num_layers,
            stacked=stacked,
            rngs=rngs,
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = (
            None if config.tie_embeddings else Linear(config.hidden_size, config.vocab_size, rngs=rngs)
        )

    def angles(self, positions):
        frequencies = rope.inverse_frequencies(self.config.head_dim, self.config.rope_theta)
        return rope.angles(positions, frequencies, self.config.mrope_sections)

    def __call__(
        self, x_BLD, positions, *, deepstack_FBLD=None, segment_ids_BL=None, remat: bool | str = False
    ):
        """All positions at once under causal attention, without a cache; hidden states [B, L, D].

        Args:
          x_BLD: Input embeddings.
          positions: int [B, L], or [3, B, L] for M-RoPE.
          deepstack_FBLD: Features added after layers 0..F-1, zero where a position is not visual.
          segment_ids_BL: int, of packed examples, which do not attend to each other.
          remat: Name in layers.REMAT_POLICIES, or True for "full".
        """
        angles = self.angles(positions)
        num_features = 0 if deepstack_FBLD is None else deepstack_FBLD.shape[0]

        def attend(q, k, v, scale):
            return attention(
                q, k, v, scale=scale, causal=True, segment_ids_BT=segment_ids_BL, rules=self.rules
            )

        def body(x, layer, index):
            x = layer(x, angles, attend)
            return _add_deepstack(x, deepstack_FBLD, index) if num_features else x

        count = num_layers(self.layers)
        x_BLD = scan_layers(body, x_BLD, self.layers, 0, count, remat=remat, rules=self.rules)
        return self.norm(x_BLD)

    def prefill(self, x_BLD, positions, *, deepstack_FBLD=None) -> tuple[jax.Array, list[KV]]:
        """As a plain call, and the keys and values of every layer, [B, L, kv_heads, head_dim]."""
        caches: list[KV] = []

        def attend(q, k, v, scale):
            caches.append((k, v))
            return attention(q, k, v, scale=scale, causal=True, rules=self.rules)

        def run(layer, x, angles, index):
            return layer(x, angles, attend)

        return self._unrolled(x_BLD, positions, run, deepstack_FBLD), caches

    def extend(self, x_BLD, positions, prefix: list[KV], prefix_length_B):
        """Hidden states [B, L, D] of the tokens that follow a prefix, given its (padded) keys and values."""
        padded_length = prefix[0][0].shape[1]
        valid = jnp.arange(padded_length) < prefix_length_B[:, None]
        valid = jnp.concatenate([valid, jnp.ones((valid.shape[0], x_BLD.shape[1]), bool)], axis=1)

        def attend_with(cache: KV):
            def attend(q, k, v, scale):
                k, v = jnp.concatenate([cache[0], k], axis=1), jnp.concatenate([cache[1], v], axis=1)
                return attention(q, k, v, scale=scale, causal=True, kv_valid_BS=valid, rules=self.rules)

            return attend

        def run(layer, x, angles, index):
            return layer(x, angles, attend_with(prefix[index]))

        return self._unrolled(x_BLD, positions, run)

    def decode_step(self, x_B1D, position, cache: list[KV]) -> tuple[jax.Array, list[KV]]:
        """One token per sequence, written to slot `position` of the caches [B, kv_heads, S, head_dim].

        position: int [B], or [layers, B] where layers hold different numbers of tokens (LP-Comp).
        """
        is_per_layer = position.ndim == 2
        positions_per_layer = list(position) if is_per_layer else [position] * len(cache)
        new_cache: list[KV] = []

        def run(layer, x, angles, index):
            x, kv = layer.decode_step(x, angles, cache[index], positions_per_layer[index])
            new_cache.append(kv)
            return x

        positions = [p[:, None] for p in positions_per_layer] if is_per_layer else position[:, None]
        return self._unrolled(x_B1D, positions, run), new_cache

    @jax.named_scope("logits")
    def logits(self, hidden) -> jax.Array:
        """Next-token logits, float32 [..., vocab]."""
        kernel = self.embed.embedding[...].T if self.head is None else self.head.kernel[...]
        return matvec_as_matmul(functools.partial(cpu_workarounds.logits, kernel=kernel), hidden)

    def _unrolled(self, x, positions, run: Callable, deepstack=None):
        """Runs run(layer, x, angles, index) layer by layer. positions: of all layers, or a list of each's."""
        count = num_layers(self.layers)
        angles = (
            [self.angles(p) for p in positions]
            if isinstance(positions, list)
            else [self.angles(positions)] * count
        )
        for index in range(count):
            x = run(get_layer(self.layers, index), x, angles[index], index)
            if deepstack is not None and index < deepstack.shape[0]:
                x = x + deepstack[index]
        return self.norm(x)


def _add_deepstack(x, deepstack_FBLD, index):
    """Adds feature map `index`, if there is one; `index` may be traced (inside a scan)."""
    count = deepstack_FBLD.shape[0]
    features = deepstack_FBLD[jnp.minimum(index, count - 1)]
    return x + jnp.where(index < count, features, jnp.zeros_like(features))
