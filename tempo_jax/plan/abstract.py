"""Programs, arrays and models as shapes with shardings on a mesh, as the engines have them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tempo_jax.checkpoint import FLOAT32_ALWAYS
from tempo_jax.models import build, quantized
from tempo_jax.models.config import DecoderConfig
from tempo_jax.models.decoder import Decoder
from tempo_jax.plan.memory import shard_bytes
from tempo_jax.runtime import generate
from tempo_jax.sharding import param_sharding
from tempo_jax.tasks import flops


class Program(NamedTuple):
    """A jitted function and its arguments as shapes with places; nothing is allocated."""

    name: str
    function: Any  # jax.jit's
    args: tuple
    kwargs: dict
    flops: float  # analytic model FLOPs of one run on the whole mesh
    tokens: int  # of the LLM (a training step, prefill, decode) or of the compressor (its chunks)
    runs: float  # of it per training step, or per hour-long video and question
    label_fraction: float = 1.0  # share of the loss's chunks of labels that have any: the others are skipped
    min_hbm_bytes: float = 0.0  # that a chip has to read from HBM, whatever the program does
    resident_bytes: float = 0.0  # weights that lie in a chip's HBM meanwhile and are not among args

    def lower(self):
        return self.function.lower(*self.args, **self.kwargs)


def on_mesh(mesh, x, *axes) -> jax.ShapeDtypeStruct:
    """x on the mesh, its dimensions over `axes`."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.NamedSharding(mesh, jax.P(*axes)))


def array(mesh, size, dtype, *axes) -> jax.ShapeDtypeStruct:
    return on_mesh(mesh, jax.ShapeDtypeStruct(tuple(size), dtype), *axes)


def parameter(path: str, x: Any, dtype, mesh) -> jax.ShapeDtypeStruct:
    """A native parameter, where it lives on the mesh, stored as dtype unless it is always float32."""
    kept = jnp.float32 if path.endswith(FLOAT32_ALWAYS) else dtype
    return jax.ShapeDtypeStruct(x.shape, kept, sharding=param_sharding(path, x.shape, mesh))


def model(config: Any, dtype: str, mesh) -> Any:
    """A model as an engine has it, one node per layer. dtype: as tempo_jax.load takes it."""
    stored = quantized.COMPUTE_DTYPE if quantized.is_quantized_dtype(dtype) else jnp.dtype(dtype)

    def placed(tree: dict, prefix: str = "") -> dict:
        return {
            key: placed(x, f"{prefix}{key}/") if isinstance(x, dict) else leaf(f"{prefix}{key}", x)
            for key, x in tree.items()
        }

    def leaf(path: str, x: Any) -> jax.ShapeDtypeStruct:
        whole = parameter(path, x, stored, mesh)
        return (
            matrix(whole)
            if quantized.is_quantized_dtype(dtype) and quantized.is_quantized_path(path)
            else whole
        )

    def matrix(whole: jax.ShapeDtypeStruct) -> Any:
        made = jax.eval_shape(lambda x: quantized.quantize_matrix(x, dtype), whole)
        spec = whole.sharding.spec
        scales = on_mesh(mesh, made.scale, None, spec[1])
        return made.replace(qvalue=on_mesh(mesh, made.qvalue, *spec), scale=scales)

    return build.build(config, placed(build.shapes(config, stacked=False)))


def resident_weight_bytes(model: Any, args: Any) -> float:
    """Bytes of one chip's part of the model's weights that are not among args."""
    own = {id(x) for x in jax.tree.leaves(args)}
    return float(sum(shard_bytes(x) for x in jax.tree.leaves(model) if id(x) not in own))


def decode_state(mesh, state: generate.DecodeState, llm: DecoderConfig) -> generate.DecodeState:
    """Caches lie by key/value head over the tensor axis where it divides them; the rest everywhere."""
    heads = "tensor" if llm.num_kv_heads % mesh.shape["tensor"] == 0 else None
    placed = jax.tree.map(lambda x: on_mesh(mesh, x), state)
    return placed._replace(
        cache=jax.tree.map(lambda x: on_mesh(mesh, x, None, heads, None, None), state.cache)
    )


def sampling_params(mesh) -> generate.SamplingParams:
    number, key = array(mesh, (), jnp.float32), jax.eval_shape(lambda: jax.random.key(0))
    return generate.SamplingParams(number, number, on_mesh(mesh, key))


def extend_flops(config: DecoderConfig, rows: int, prefix: int, length: int) -> float:
    """FLOPs of `length` further positions of rows that have `prefix`: every one of them sees the prefix."""
    weights, scores = flops.decoder(config, rows, length)
    heads = config.num_heads * config.head_dim
    return weights + scores + 4.0 * rows * length * prefix * heads * config.num_layers


def decode_step(mesh, llm: Decoder, state: generate.DecodeState, seen: int, runs: int, **options) -> Program:
    """After a prefill that left `state`. seen: tokens of the prompt that a layer sees, mean over layers.

    Its floor is what a token cannot be made without reading: weights and caches.
    """
    config = llm.config
    state = decode_state(mesh, state, config)
    floor = sum(map(shard_bytes, jax.tree.leaves((llm, state.cache))))
    needed = extend_flops(config, 1, seen, 1) + 2.0 * config.hidden_size * config.vocab_size
    args = (llm, state, array(mesh, (), "int32"), sampling_params(mesh))
    return Program("decode step", generate.decode, args, options, needed, 1, runs, min_hbm_bytes=floor)
