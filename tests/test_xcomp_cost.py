"""What compression saves: by hand (T13), as the paper has it, and as the compiler counts it."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from tempo_jax.models import build, stacks
from tempo_jax.models.presets import XCOMP_2B, XCOMP_TINY
from tempo_jax.xcomp import cost, token_compression
from tempo_jax.xcomp.token_compression import VARIANTS, make_schedule

# Published ratios of prefill TFLOPs, 863 text tokens: 20/43, 58/132, 187/448 (docs/reference/xcomp.md#cost).
PUBLISHED = {1024: 20 / 43, 2048: 58 / 132, 4096: 187 / 448}


def test_by_hand():
    """T13: 231 of 448 MiB of keys and values for 1024 frames; 0.5156 of the linear work."""
    assert cost.cache_bytes(XCOMP_2B, 0, 1024) == 231 * 2**20
    assert cost.cache_bytes(XCOMP_2B, 0, 1024, compress=False) == 448 * 2**20
    with_it, without = (cost.llm_flops(XCOMP_2B, 0, 1024, compress=c) for c in (True, False))
    assert with_it[0] / without[0] == pytest.approx(0.515625)
    assert with_it[1] / without[1] == pytest.approx(0.3760, abs=1e-4)


@pytest.mark.parametrize("frames", PUBLISHED)
def test_published_ratios(frames):
    with_it, without = (cost.prefill_flops(XCOMP_2B, 863, frames, compress=c) for c in (True, False))
    assert with_it / without == pytest.approx(PUBLISHED[frames], abs=0.035)


def test_the_compiler_counts_the_same():
    """Its ratio for an LLM of four layers, unrolled so that it counts every layer, is the analytic one."""
    llm = dataclasses.replace(XCOMP_TINY.llm, num_layers=4, vocab_size=64, hidden_size=128)
    config = dataclasses.replace(XCOMP_TINY, llm=llm)
    decoder = build.build(llm, stacks.unstack_layers(build.parameters(build.init(llm))))
    room = token_compression.RowCapacity(32, 8)
    x = jnp.zeros((1, room.length(16), 128))
    rows = token_compression.RowLengths(*(jnp.array([n]) for n in (14, 8, 18)))
    counted = [
        jax.jit(token_compression.prefill, static_argnums=(3, 4))
        .lower(decoder, x, rows, room, make_schedule(VARIANTS[name], 4, 16))
        .compile()
        .cost_analysis()["flops"]
        for name in ("released", "none")
    ]
    analytic = [cost.prefill_flops(config, 32, 8, compress=compress) for compress in (True, False)]
    assert counted[0] / counted[1] == pytest.approx(analytic[0] / analytic[1], rel=0.1)
