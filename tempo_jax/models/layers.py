"""Building blocks: affine maps, norms, embeddings, and stacks of equal layers.

Parameters carry their own dtype and computation follows it; norms work in float32 inside.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from tempo_jax.errors import TempoError
from tempo_jax.models.kernels.attention import platform
from tempo_jax.models.quantized import matmul
from tempo_jax.sharding import constrain


def initial_std(width: int) -> float:
    """Of random kernels with `width` inputs and of embeddings that wide: 0.02, as Qwen, at its widths."""
    return width**-0.5


def matvec_as_matmul(product: Callable, x: jax.Array) -> jax.Array:
    """product(x), for x [..., in] with a weight [in, out]; on a TPU a single row is multiplied twice.

    XLA:TPU computes one row outside the matrix unit, which by its own estimate takes four times as long as
    two rows, which it multiplies while the next weights arrive (docs/plans.md).
    """
    if platform() != "tpu" or math.prod(x.shape[:-1]) != 1:
        return product(x)
    y = product(jnp.broadcast_to(x.reshape(1, -1), (2, x.shape[-1])))
    return y[:1].reshape(*x.shape[:-1], -1)


class Linear(nnx.Module):
    """y = x @ kernel (+ bias); kernel [in, out], the transpose of PyTorch's weight; maybe in 8 bits."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False, rngs: nnx.Rngs):
        init = nnx.initializers.normal(initial_std(in_features))
        self.kernel = nnx.Param(init(rngs.params(), (in_features, out_features), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(out_features)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...]
        y = matvec_as_matmul(lambda x: matmul(x, kernel), x)
        return y if self.bias is None else y + self.bias[...]

    def project_heads(self, x: jax.Array, count: int, *, part: int = 0, parts: int = 1) -> jax.Array:
        """Part `part` of `parts` equal ones of y, as [..., count, size]: heads of a projection, maybe fused.

        Weights are cut and shaped, which are small, not y, which a TPU would copy into another layout.
        """

        def own(w: jax.Array) -> jax.Array:
            return w.reshape(*w.shape[:-1], parts, count, -1)[..., part, :, :]

        y = jax.lax.dot_general(x, own(self.kernel[...]), (((x.ndim - 1,), (0,)), ((), ())))
        return y if self.bias is None else y + own(self.bias[...])

    def split_outputs(self, x: jax.Array, parts: int) -> list[jax.Array]:
        """Equal parts of x @ kernel, [..., size] each, a product each; the bias is not added."""
        return [x @ kernel for kernel in jnp.split(self.kernel[...], parts, axis=1)]

    def merge_heads(self, x: jax.Array) -> jax.Array:
        """y of heads [..., count, size] side by side."""
        kernel = self.kernel[...].reshape(*x.shape[-2:], -1)
        y = jax.lax.dot_general(x, kernel, (((x.ndim - 2, x.ndim - 1), (0, 1)), ((), ())))
        return y if self.bias is None else y + self.bias[...]


def exact_gelu(x: jax.Array) -> jax.Array:
    """GELU by erf, as PyTorch's; float32 inside. With JAX's own, by erfc, an MLP takes a TPU over three times
    as long by XLA's estimate (docs/plans.md)."""
    x32 = x.astype(jnp.float32)
    return (0.5 * x32 * (1 + jax.lax.erf(x32 * math.sqrt(0.5)))).astype(x.dtype)


class RMSNorm(nnx.Module):
    """Root-mean-square norm over the last axis; rounds to x's dtype before the scale, as Qwen does."""

    def __init__(self, size: int, eps: float):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(size))

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return self.scale[...] * normed.astype(x.dtype)


class LayerNorm(nnx.Module):
    """Layer norm over the last axis, computed in float32."""

    def __init__(self, size: int, eps: float = 1e-6):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(size))
        self.bias = nnx.Param(jnp.zeros(size))

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + self.eps)
        y = normed * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)
        return y.astype(x.dtype)


class Embedding(nnx.Module):
    """A table of vectors [count, size]."""

    def __init__(self, count: int, size: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(initial_std(size))
        self.embedding = nnx.Param(init(rngs.params(), (count, size), jnp.float32))

    def __call__(self, ids: jax.Array) -> jax.Array:
        return self.embedding[...][ids]


_ATTENTION = jax.checkpoint_policies.save_only_these_names("attention")
# What the backward pass of scanned layers computes again instead of keeping it: everything ("full"), all but
# what splash attention gave ("attention": as full where there is none), all but that and the results of
# matrix products with weights ("dots"), nothing ("none").
REMAT_POLICIES: dict[str, Callable | None] = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "attention": _ATTENTION,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _ATTENTION
    ),
    "none": None,
}


def parse_remat_policies(remat: bool | str, count: int) -> list[bool | str]:
    """Names in REMAT of `count` stacks of layers: one for all of them, or one each, as "full,full,attention".

    TempoError where there are as many as neither, or one that REMAT has not.
    """
    names = remat.split(",") if isinstance(remat, str) else [remat]
    if isinstance(remat, str) and (len(names) not in (1, count) or not REMAT_POLICIES.keys() >= set(names)):
        each = f", or {count} of them with commas between" if count > 1 else ""
        raise TempoError(f"config.remat is {remat!r}: use one of {', '.join(REMAT_POLICIES)}{each}")
    return names * count if len(names) == 1 else names


def make_layers(make: Callable[[nnx.Rngs], nnx.Module], count: int, *, stacked: bool, rngs: nnx.Rngs):
    """`count` equal layers: one module with a leading layer axis (training, checkpoints), or a list.

    The list is for inference: per-layer buffers let a KV cache stay out of `lax.scan`, which would
    hold it twice (facts/anchors.md §0, fact 4), and spare the loop a copy of every slice.
    """
    keys = jax.random.split(rngs.params(), count)
    if stacked:
        return jax.vmap(lambda key: make(nnx.Rngs(key)))(keys)
    return nnx.List([make(nnx.Rngs(key)) for key in keys])


def num_layers(layers) -> int:
    return len(layers) if isinstance(layers, nnx.List) else jax.tree.leaves(layers)[0].shape[0]


def get_layer(layers, index: int):
    """Layer `index` of a stack or a list."""
    return layers[index] if isinstance(layers, nnx.List) else jax.tree.map(lambda x: x[index], layers)


def scan_layers(body: Callable, carry, layers, start: int, stop: int, *, remat: bool | str = False):
    """Runs `carry = body(carry, layer, index)` over layers start..stop-1.

    A stack is scanned, with the rematerialisation of REMAT (True: "full"); a list is unrolled. Between layers
    chips hold their own rows of the carry, [rows, ...]: left alone, XLA splits its width as the weights are
    over fsdp, and moves activations where it should gather the weights of one layer at a time.
    """
    carry = constrain(carry, "segments")
    if isinstance(layers, nnx.List):
        for index in range(start, stop):
            carry = constrain(body(carry, layers[index], index), "segments")
        return carry
    if (start, stop) != (0, num_layers(layers)):
        layers = jax.tree.map(lambda x: x[start:stop], layers)

    def step(carry, scanned):
        return constrain(body(carry, *scanned), "segments"), None

    policy = REMAT_POLICIES[{True: "full", False: "none"}.get(remat, remat)]
    step = step if policy is None else jax.checkpoint(step, prevent_cse=False, policy=policy)
    return jax.lax.scan(step, carry, (layers, jnp.arange(start, stop)))[0]
