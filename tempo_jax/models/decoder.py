"""One decoder for Qwen2.5, Qwen3 and the text half of Qwen3-VL (facts/tempo.md §1.2, §1.6)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from tempo_jax.models import rope
from tempo_jax.models.config import DecoderConfig
from tempo_jax.models.kernels.attention import attention, platform
from tempo_jax.models.layers import (
    Embedding,
    Linear,
    RMSNorm,
    get_layer,
    make_layers,
    matvec_as_matmul,
    num_layers,
    scan_layers,
)
from tempo_jax.sharding import partition_spec, shard_map_local

KV = tuple[jax.Array, jax.Array]  # keys and values of one layer, each [B, S, kv_heads, head_dim]


class Attention(nnx.Module):
    """Projections of grouped-query attention, with q/k norm (Qwen3) or q/k/v bias (Qwen2.5)."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        q_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.head_dim = config.head_dim
        self.q = Linear(config.hidden_size, q_size, bias=config.qkv_bias, rngs=rngs)
        self.k = Linear(config.hidden_size, kv_size, bias=config.qkv_bias, rngs=rngs)
        self.v = Linear(config.hidden_size, kv_size, bias=config.qkv_bias, rngs=rngs)
        self.o = Linear(q_size, config.hidden_size, rngs=rngs)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else None

    def qkv(self, x_BLD, angles_BLR):
        """Rotated queries and keys, and values, [B, L, heads, head_dim] each; and what is still to be
        multiplied with scores, where it is not the usual head_dim^-0.5."""
        q, k, v = (f(x_BLD) for f in (self.q, self.k, self.v))
        if head_layout := self._qkv_kernel(x_BLD):
            q = head_layout.apart(q, norm=self.q_norm, angles_BLR=angles_BLR, scale=self.head_dim**-0.5)
            k = head_layout.apart(k, norm=self.k_norm, angles_BLR=angles_BLR)
            return *(x.swapaxes(1, 2) for x in (q, k, head_layout.apart(v))), 1.0
        q, k, v = (x.reshape(*x.shape[:2], -1, self.head_dim) for x in (q, k, v))
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return rope.rotate(q, angles_BLR), rope.rotate(k, angles_BLR), v, None

    def decode_step(self, x_B1D, angles_B1R, cache: KV, position_B) -> tuple[jax.Array, KV]:
        """One token a row, after those in the first `position_B` slots of the cache, [B, kv_heads, S, H];
        what it gives, and the cache with the token."""
        rows = jnp.arange(x_B1D.shape[0])

        def write(k_BKH, v_BKH) -> KV:
            new = zip(cache, (k_BKH, v_BKH), strict=True)
            return tuple(constrain_cache_layout(old.at[rows, :, position_B].set(x)) for old, x in new)

        if decode_attention := _decode_kernel(x_B1D.dtype, self.head_dim):
            projected = tuple(f(x_B1D) for f in (self.q, self.k, self.v))
            norms = None if self.q_norm is None else (self.q_norm, self.k_norm)
            y, k = decode_attention.attend(projected, cache, position_B, angles_B1R, norms=norms)
            k, v = (x.reshape(len(rows), -1, self.head_dim) for x in (k, projected[2]))
            return self.o(y), write(k, v)
        q, k, v, scale = self.qkv(x_B1D, angles_B1R)
        written = write(k[:, 0], v[:, 0])
        valid = jnp.arange(written[0].shape[2]) <= position_B[:, None]
        k, v = (x.swapaxes(1, 2) for x in written)
        return self.output_projection(attention(q, k, v, scale=scale, kv_valid_BS=valid)), written

    def output_projection(self, x_BLNH):
        if head_layout := self._qkv_kernel(x_BLNH):
            return self.o(head_layout.together(x_BLNH.swapaxes(1, 2)))
        return self.o(x_BLNH.reshape(*x_BLNH.shape[:2], -1))

    def _qkv_kernel(self, x_BL):
        """The module that turns projections to heads and back on a TPU, where it takes these."""
        if platform() != "tpu":
            return None
        from tempo_jax.models.kernels import qk_norm_rope  # Pallas: nobody else need import it

        return qk_norm_rope if qk_norm_rope.is_supported(x_BL.dtype, x_BL.shape[1], self.head_dim) else None


def _decode_kernel(dtype, size: int):
    """The module that attends to one token a row on a TPU, where it takes heads of `size`."""
    if platform() != "tpu":
        return None
    from tempo_jax.models.kernels import decode_attention

    return decode_attention if decode_attention.is_supported(dtype, size) else None


class MLP(nnx.Module):
    """SwiGLU."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.gate = Linear(config.hidden_size, config.intermediate_size, rngs=rngs)
        self.up = Linear(config.hidden_size, config.intermediate_size, rngs=rngs)
        self.down = Linear(config.intermediate_size, config.hidden_size, rngs=rngs)

    def __call__(self, x):
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


class DecoderLayer(nnx.Module):
    """Pre-norm attention and MLP with residuals; what is attended to is the caller's business."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config, rngs=rngs)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config, rngs=rngs)

    def __call__(self, x_BLD, angles_BLR, attend: Callable):
        """attend(q, k, v, scale) -> [B, L, N, H], of what `Attention.project` gives."""
        projected = self.attention.qkv(self.attention_norm(x_BLD), angles_BLR)
        x_BLD = x_BLD + self.attention.output_projection(attend(*projected))
        return x_BLD + self.mlp(self.mlp_norm(x_BLD))

    def decode_step(self, x_B1D, angles_B1R, cache: KV, position_B) -> tuple[jax.Array, KV]:
        """One token a row, as `Attention.step`."""
        attended, cache = self.attention.decode_step(
            self.attention_norm(x_B1D), angles_B1R, cache, position_B
        )
        x_B1D = x_B1D + attended
        return x_B1D + self.mlp(self.mlp_norm(x_B1D)), cache


class Decoder(nnx.Module):
    """Token embedding, decoder layers, final norm and language-model head.

    Hidden states returned are post final norm. Positions are int [B, L], or [3, B, L] for M-RoPE.
    Rows are right-padded: under causal attention no real token ever sees its row's padding.
    """

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs, stacked: bool = True):
        self.config = config
        self.embed = Embedding(config.vocab_size, config.hidden_size, rngs=rngs)
        self.layers = make_layers(
            lambda rngs: DecoderLayer(config, rngs=rngs), config.num_layers, stacked=stacked, rngs=rngs
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
        """All positions at once under causal attention, no cache; hidden states [B, L, D].

        deepstack_FBLD: features added after layers 0..F-1, zero where a position is not visual.
        segment_ids_BL: int, for rows that hold several texts, which do not see each other.
        """
        angles = self.angles(positions)
        features = 0 if deepstack_FBLD is None else deepstack_FBLD.shape[0]

        def attend(q, k, v, scale):
            return attention(q, k, v, scale=scale, causal=True, segment_ids_BT=segment_ids_BL)

        def body(x, block, index):
            x = block(x, angles, attend)
            return _add_deepstack(x, deepstack_FBLD, index) if features else x

        count = num_layers(self.layers)
        return self.norm(scan_layers(body, x_BLD, self.layers, 0, count, remat=remat))

    def prefill(self, x_BLD, positions, *, deepstack_FBLD=None) -> tuple[jax.Array, list[KV]]:
        """Like a plain call, and the keys and values of every layer ([B, L, kv_heads, head_dim])."""
        caches: list[KV] = []

        def attend(q, k, v, scale):
            caches.append((k, v))
            return attention(q, k, v, scale=scale, causal=True)

        def run(block, x, angles, index):
            return block(x, angles, attend)

        return self._unrolled(x_BLD, positions, run, deepstack_FBLD), caches

    def extend(self, x_BLD, positions, prefix: list[KV], prefix_length_B):
        """Continues rows whose first tokens are in `prefix` (padded; lengths given); hidden [B, L, D]."""
        padded = prefix[0][0].shape[1]
        valid = jnp.arange(padded) < prefix_length_B[:, None]
        valid = jnp.concatenate([valid, jnp.ones((valid.shape[0], x_BLD.shape[1]), bool)], axis=1)

        def attend_with(cache: KV):
            def attend(q, k, v, scale):
                k, v = jnp.concatenate([cache[0], k], axis=1), jnp.concatenate([cache[1], v], axis=1)
                return attention(q, k, v, scale=scale, causal=True, kv_valid_BS=valid)

            return attend

        def run(block, x, angles, index):
            return block(x, angles, attend_with(prefix[index]))

        return self._unrolled(x_BLD, positions, run)

    def decode_step(self, x_B1D, position, cache: list[KV]) -> tuple[jax.Array, list[KV]]:
        """One token per row, written to slot `position` of the cache buffers [B, kv_heads, S, head_dim].

        position: int [B], or [layers, B] where layers hold different numbers of tokens (LP-Comp).
        """
        per_layer = position.ndim == 2
        slots = list(position) if per_layer else [position] * len(cache)
        written: list[KV] = []

        def run(block, x, angles, index):
            x, kv = block.decode_step(x, angles, cache[index], slots[index])
            written.append(kv)
            return x

        positions = [slot[:, None] for slot in slots] if per_layer else position[:, None]
        return self._unrolled(x_B1D, positions, run), written

    def logits(self, hidden) -> jax.Array:
        """Next-token logits, float32 [..., vocab]."""
        kernel = self.embed.embedding[...].T if self.head is None else self.head.kernel[...]
        return matvec_as_matmul(lambda x: jnp.matmul(x, kernel, preferred_element_type=jnp.float32), hidden)

    def _unrolled(self, x, positions, run: Callable, deepstack=None):
        """run: one layer, of (it, x, angles, its index). positions: of all layers, or a list of each's."""
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


def constrain_cache_layout(x_BKSH):
    """x, which a TPU is to hold head by head, as one query reads it: left alone, XLA would turn every cache
    around as its loop begins and ends."""
    if platform() != "tpu":
        return x_BKSH
    from jax.experimental.layout import Layout, with_layout_constraint  # nobody else need import it

    def hold(x):
        return with_layout_constraint(x, Layout((0, 1, 2, 3)))

    axes = ("none", "heads", "none", "none")  # left to XLA, chips would gather them
    where = partition_spec(axes, x_BKSH.shape, jax.sharding.get_abstract_mesh())
    return shard_map_local(hold, where, where)(x_BKSH)


def _add_deepstack(x, deepstack_FBLD, index):
    """Adds feature map `index` while there is one; `index` may be traced (inside a scan)."""
    count = deepstack_FBLD.shape[0]
    features = deepstack_FBLD[jnp.minimum(index, count - 1)]
    return x + jnp.where(index < count, features, jnp.zeros_like(features))
