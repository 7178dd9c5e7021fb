"""One step of decoding as shapes on a mesh: the same for every system's LLM."""

import jax

from tempo_jax.models.decoder import Decoder
from tempo_jax.plan import shapes
from tempo_jax.plan.memory import shard_bytes
from tempo_jax.plan.programs import Program
from tempo_jax.runtime import generate


def step(mesh, llm: Decoder, state: generate.Generation, seen: int, runs: int, **options) -> Program:
    """After a prefill that left `state`. seen: tokens of the prompt that a layer sees, mean over layers.

    Its floor is what a token cannot be made without reading: weights and caches.
    """
    config = llm.config
    state = shapes.generation(mesh, state, config)
    floor = sum(map(shard_bytes, jax.tree.leaves((llm, state.cache))))
    flops = shapes.after(config, 1, seen, 1) + 2.0 * config.hidden_size * config.vocab_size
    args = (llm, state, shapes.shape(mesh, (), "int32"), shapes.sampling(mesh))
    return Program("decode step", generate.advance, args, options, flops, 1, runs, floor_bytes=floor)
