"""Abstract programs: jitted functions with arrays and models as shapes with shardings on a mesh."""

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
    """A jitted function with abstract arguments; nothing is allocated.

    Attributes:
      name: Name of the program.
      function: What jax.jit returned.
      args: Its positional arguments, as jax.ShapeDtypeStructs with shardings.
      kwargs: Its keyword arguments.
      flops: Analytic model FLOPs of one run, on the whole mesh.
      tokens: Tokens of the LLM (a train step, prefill, decode) or of the compressor (its chunks), per run.
      runs: Runs per train step, or per hour-long video and question.
      label_fraction: Fraction of the loss's label chunks that have any label: the others are skipped.
      min_hbm_bytes: Bytes that a chip has to read from HBM in any case.
      resident_bytes: Weights in a chip's HBM that are not among `args`.
    """

    name: str
    function: Any
    args: tuple
    kwargs: dict
    flops: float
    tokens: int
    runs: float
    label_fraction: float = 1.0
    min_hbm_bytes: float = 0.0
    resident_bytes: float = 0.0

    def lower(self):
        return self.function.lower(*self.args, **self.kwargs)


def on_mesh(mesh, x, *axes) -> jax.ShapeDtypeStruct:
    """x on the mesh, its dimensions split over `axes`."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.NamedSharding(mesh, jax.P(*axes)))


def array(mesh, size, dtype, *axes) -> jax.ShapeDtypeStruct:
    """An array of that shape and dtype on the mesh, its dimensions split over `axes`."""
    return on_mesh(mesh, jax.ShapeDtypeStruct(tuple(size), dtype), *axes)


def parameter(path: str, x: Any, dtype, mesh) -> jax.ShapeDtypeStruct:
    """A native parameter with its sharding on the mesh, stored as dtype unless it is always float32."""
    stored = jnp.float32 if path.endswith(FLOAT32_ALWAYS) else dtype
    return jax.ShapeDtypeStruct(x.shape, stored, sharding=param_sharding(path, x.shape, mesh))


def model(config: Any, dtype: str, mesh) -> Any:
    """A model as an engine holds it, with a list of layers. dtype: as tempo_jax.load takes it."""
    is_quantized = quantized.is_quantized_dtype(dtype)
    stored = quantized.COMPUTE_DTYPE if is_quantized else jnp.dtype(dtype)

    def abstract_tree(tree: dict, prefix: str = "") -> dict:
        return {
            key: abstract_tree(x, f"{prefix}{key}/") if isinstance(x, dict) else leaf(f"{prefix}{key}", x)
            for key, x in tree.items()
        }

    def leaf(path: str, x: Any) -> Any:
        kernel = parameter(path, x, stored, mesh)
        return quantized_matrix(kernel) if is_quantized and quantized.is_quantized_path(path) else kernel

    def quantized_matrix(kernel: jax.ShapeDtypeStruct) -> Any:
        matrix = jax.eval_shape(lambda x: quantized.quantize_matrix(x, dtype), kernel)
        spec = kernel.sharding.spec
        scale = on_mesh(mesh, matrix.scale, None, spec[1])
        return matrix.replace(qvalue=on_mesh(mesh, matrix.qvalue, *spec), scale=scale)

    return build.build(config, abstract_tree(build.shapes(config, stacked=False)))


def resident_weight_bytes(model: Any, args: Any) -> float:
    """Bytes per chip of the model's weights that are not among args."""
    in_args = {id(x) for x in jax.tree.leaves(args)}
    return float(sum(shard_bytes(x) for x in jax.tree.leaves(model) if id(x) not in in_args))


def decode_state(mesh, state: generate.DecodeState, llm: DecoderConfig) -> generate.DecodeState:
    """The state with shardings: caches by key/value heads over the tensor axis where it divides them."""
    heads = "tensor" if llm.num_kv_heads % mesh.shape["tensor"] == 0 else None
    cache = jax.tree.map(lambda x: on_mesh(mesh, x, None, heads, None, None), state.cache)
    return jax.tree.map(lambda x: on_mesh(mesh, x), state)._replace(cache=cache)


def _repeat_rows(state: generate.DecodeState, rows: int) -> generate.DecodeState:
    """The state of so many rows like the only one of `state`."""
    by_rows = jax.tree.map(lambda x: x.update(shape=(rows, *x.shape[1:])), state)
    return by_rows._replace(length_B=state.length_B.update(shape=(*state.length_B.shape[:-1], rows)))


def sampling_params(mesh, *, repetition_penalty: bool = False) -> generate.SamplingParams:
    scalar, key = array(mesh, (), jnp.float32), jax.eval_shape(lambda: jax.random.key(0))
    penalty = scalar if repetition_penalty else None
    return generate.SamplingParams(scalar, scalar, on_mesh(mesh, key), penalty)


def extend_flops(config: DecoderConfig, batch: int, prefix: int, length: int) -> float:
    """FLOPs of `length` further positions of sequences with a prefix, which each of them attends to."""
    weights, scores = flops.decoder(config, batch, length)
    heads = config.num_heads * config.head_dim
    return weights + scores + 4.0 * batch * length * prefix * heads * config.num_layers


def decode_step(
    mesh, llm: Decoder, state: generate.DecodeState, prompt_tokens: int, runs: int, rows: int, **options
) -> Program:
    """One decode step of answers that are decoded together, each after a prefill that returned `state`.

    prompt_tokens: tokens of the prompt that a layer processes, mean over layers. The minimum of bytes is what
      a token cannot be decoded without: weights and caches.
    """
    config = llm.config
    state = decode_state(mesh, _repeat_rows(state, rows), config)
    min_hbm_bytes = sum(map(shard_bytes, jax.tree.leaves((llm, state.cache))))
    step_flops = extend_flops(config, rows, prompt_tokens, 1)
    step_flops += 2.0 * rows * config.hidden_size * config.vocab_size
    args = (llm, state, array(mesh, state.count_B.shape, "int32"))
    return Program(
        "decode step", generate.decode, args, options, step_flops, rows, runs, min_hbm_bytes=min_hbm_bytes
    )
