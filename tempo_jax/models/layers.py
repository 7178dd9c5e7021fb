"""Building blocks of both systems: affine maps, norms, embeddings, and stacks of equal layers.

Parameters carry their own dtype and computation follows it; norms compute in float32.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from tempo_jax.errors import TempoError
from tempo_jax.models.quantized import matmul
from tempo_jax.models.tpu_workarounds import matvec_as_matmul
from tempo_jax.sharding import DEFAULT_RULES, ShardingRules, constrain


def initial_std(width: int) -> float:
    """Standard deviation of random kernels with `width` inputs and of embeddings of that width.

    At Qwen's widths it is about Qwen's own 0.02.
    """
    return width**-0.5


def random_normal(rngs: nnx.Rngs | None, shape: tuple[int, int], width: int) -> jax.Array:
    """Normal float32 numbers of standard deviation `initial_std(width)`.

    Zeros where `rngs` is None, for a model of which only shapes are wanted: tracing random numbers takes most
    of the time of building one.
    """
    if rngs is None:
        return jnp.zeros(shape)
    return nnx.initializers.normal(initial_std(width))(rngs.params(), shape, jnp.float32)


class Linear(nnx.Module):
    """y = x @ kernel (+ bias); kernel [in, out], the transpose of PyTorch's weight, possibly quantized."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False, rngs: nnx.Rngs):
        self.kernel = nnx.Param(random_normal(rngs, (in_features, out_features), in_features))
        self.bias = nnx.Param(jnp.zeros(out_features)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...]
        y = matvec_as_matmul(lambda x: matmul(x, kernel), x)
        return y if self.bias is None else y + self.bias[...]

    def project_heads(self, x: jax.Array, heads: int, *, part: int = 0, parts: int = 1) -> jax.Array:
        """Part `part` of `parts` equal parts of y, as [..., heads, head_dim]: one of fused q, k, v.

        It slices and reshapes the weights, which are small, and not y, which a TPU would relayout.
        """

        def select(w: jax.Array) -> jax.Array:
            return w.reshape(*w.shape[:-1], parts, heads, -1)[..., part, :, :]

        y = jax.lax.dot_general(x, select(self.kernel[...]), (((x.ndim - 1,), (0,)), ((), ())))
        return y if self.bias is None else y + select(self.bias[...])

    def split_outputs(self, x: jax.Array, parts: int) -> list[jax.Array]:
        """Equal parts of x @ kernel, [..., out / parts] each, by one matmul each; the bias is not added."""
        return [x @ kernel for kernel in jnp.split(self.kernel[...], parts, axis=1)]

    def merge_heads(self, x: jax.Array) -> jax.Array:
        """y of x given as heads, [..., heads, head_dim]."""
        kernel = self.kernel[...].reshape(*x.shape[-2:], -1)
        y = jax.lax.dot_general(x, kernel, (((x.ndim - 2, x.ndim - 1), (0, 1)), ((), ())))
        return y if self.bias is None else y + self.bias[...]


def exact_gelu(x: jax.Array) -> jax.Array:
    """GELU by erf, as PyTorch's, in float32.

    JAX's own, by erfc, makes an MLP over three times as slow on a TPU by XLA's estimate
    (docs/results/optimization-log.md).
    """
    x32 = x.astype(jnp.float32)
    return (0.5 * x32 * (1 + jax.lax.erf(x32 * math.sqrt(0.5)))).astype(x.dtype)


class RMSNorm(nnx.Module):
    """RMS norm over the last axis; rounds to x's dtype before the scale is applied, as Qwen does."""

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
        centered = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        normed = centered * jax.lax.rsqrt(jnp.mean(centered * centered, axis=-1, keepdims=True) + self.eps)
        y = normed * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)
        return y.astype(x.dtype)


class Embedding(nnx.Module):
    """A table of vectors [count, size]."""

    def __init__(self, count: int, size: int, *, rngs: nnx.Rngs):
        self.embedding = nnx.Param(random_normal(rngs, (count, size), size))

    def __call__(self, ids: jax.Array) -> jax.Array:
        return self.embedding[...][ids]


_ATTENTION = jax.checkpoint_policies.save_only_these_names("attention")
_OFFLOADED_DOTS = jax.checkpoint_policies.offload_dot_with_no_batch_dims("device", "pinned_host")


def _offload(primitive, *args, **params):
    """Attention outputs stay on the device, outputs of matmuls with weights wait in the host's memory."""
    return _ATTENTION(primitive, *args, **params) or _OFFLOADED_DOTS(primitive, *args, **params)


# What the backward pass of scanned layers recomputes: everything ("full"), everything but the outputs of
# splash attention ("attention"; the same as "full" without that kernel), everything but those and the outputs
# of matmuls with weights ("dots"; "offload" keeps the latter in the host's memory), or nothing ("none").
REMAT_POLICIES: dict[str, Callable | None] = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "attention": _ATTENTION,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _ATTENTION
    ),
    "offload": _offload,
    "none": None,
}


def parse_remat_policies(remat: bool | str, num_stacks: int) -> list[bool | str]:
    """Names in REMAT_POLICIES for each of `num_stacks` stacks of layers.

    Args:
      remat: One name for all stacks, or one for each, as in "full,full,attention"; or a bool for all.
      num_stacks: Number of stacks of layers.

    Raises:
      TempoError: The number of names is neither 1 nor `num_stacks`, or a name is unknown.
    """
    names = remat.split(",") if isinstance(remat, str) else [remat]
    valid = len(names) in (1, num_stacks) and REMAT_POLICIES.keys() >= set(names)
    if isinstance(remat, str) and not valid:
        each = f", or {num_stacks} of them with commas between" if num_stacks > 1 else ""
        raise TempoError(f"config.remat is {remat!r}: use one of {', '.join(REMAT_POLICIES)}{each}")
    return names * num_stacks if len(names) == 1 else names


def make_layers(
    make: Callable[[nnx.Rngs | None], nnx.Module], count: int, *, stacked: bool, rngs: nnx.Rngs | None
):
    """`count` equal layers: one module with a leading layer axis (training, checkpoints), or a list.

    Inference uses the list: with separate buffers per layer a KV cache stays out of `lax.scan`, which would
    hold it twice, and the loop copies no slices of weights.
    """
    if rngs is None:  # of a model of shapes, whose layers are stacked: see random_normal
        return jax.vmap(lambda _: make(None))(jnp.arange(count))
    keys = jax.random.split(rngs.params(), count)
    if stacked:
        return jax.vmap(lambda key: make(nnx.Rngs(key)))(keys)
    return nnx.List([make(nnx.Rngs(key)) for key in keys])


def num_layers(layers) -> int:
    return len(layers) if isinstance(layers, nnx.List) else jax.tree.leaves(layers)[0].shape[0]


def get_layer(layers, index: int):
    """Layer `index` of stacked layers or of a list."""
    return layers[index] if isinstance(layers, nnx.List) else jax.tree.map(lambda x: x[index], layers)


def scan_layers(
    body: Callable,
    carry,
    layers,
    start: int,
    stop: int,
    *,
    remat: bool | str = False,
    rules: ShardingRules = DEFAULT_RULES,
):
    """Runs `carry = body(carry, layer, index)` over layers start..stop-1.

    Stacked layers are scanned, with a policy of REMAT_POLICIES (True: "full"); a list is unrolled. Between
    layers the carry, [batch, ...], is sharded over its batch: left alone, XLA shards its width as fsdp shards
    the weights, and communicates activations where it should all-gather the weights of one layer at a time.
    """
    carry = constrain(carry, "batch", rules)
    if isinstance(layers, nnx.List):
        for index in range(start, stop):
            carry = constrain(body(carry, layers[index], index), "batch", rules)
        return carry
    if (start, stop) != (0, num_layers(layers)):
        layers = jax.tree.map(lambda x: x[start:stop], layers)

    def step(carry, layer_and_index):
        return constrain(body(carry, *layer_and_index), "batch", rules), None

    policy = REMAT_POLICIES[{True: "full", False: "none"}.get(remat, remat)]
    step = step if policy is None else jax.checkpoint(step, prevent_cse=False, policy=policy)
    return jax.lax.scan(step, carry, (layers, jnp.arange(start, stop)))[0]


@jax.named_scope("patch_embed")
def patch_embed(frames_BTHWC, kernel, bias, patch: int) -> jax.Array:
    """Every patch of B stacks of T frames times `kernel`, plus bias: [B, H/patch, W/patch, D].

    kernel: [C*T*patch*patch, D], a patch's values by channel, frame and row
    (docs/reference/tempo.md#frame-sizes). A patch on its own would have rows of 16 pixels, which a TPU moves
    slowly: a matmul per pixel column over all patches takes a sixth of the time
    (docs/results/optimization-log.md).
    """
    batch, count, height, width, channels = frames_BTHWC.shape
    x = frames_BTHWC.astype(kernel.dtype).reshape(batch, count, -1, patch, width, channels)
    x = x.transpose(0, 2, 4, 5, 1, 3).reshape(batch, height // patch, width // patch, patch, -1)
    columns = kernel.reshape(channels, count, patch, patch, -1).transpose(3, 0, 1, 2, 4)
    return jnp.einsum("byxpk,pkd->byxd", x, columns.reshape(patch, -1, kernel.shape[-1])) + bias


def gather_rows(buffer_MD, index_BL, num_shards: int = 1) -> jax.Array:
    """buffer_MD[index_BL], [B, L, D]; an arbitrary row where the index is negative.

    num_shards: number of equal, consecutive parts of buffer and batch between which no index points: examples
      of a part refer to buffer rows of the same part only. On a mesh, each chip then gathers from its own
      part; otherwise XLA all-gathers the whole buffer to every chip, and all-reduces its gradient.
    """
    if buffer_MD.shape[0] % num_shards or index_BL.shape[0] % num_shards:
        num_shards = 1  # a batch that is not a training batch
    shard_size = buffer_MD.shape[0] // num_shards
    buffers = constrain(buffer_MD.reshape(num_shards, shard_size, -1), "batch")
    indices = index_BL.reshape(num_shards, -1, index_BL.shape[1])
    indices = indices - shard_size * jnp.arange(num_shards)[:, None, None]
    rows = jax.vmap(lambda buffer, index: buffer[jnp.maximum(index, 0)])(buffers, indices)
    return constrain(rows.reshape(*index_BL.shape, -1), "batch")
