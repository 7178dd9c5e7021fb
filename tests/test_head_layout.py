"""Kernels that norm, rotate and turn heads compute what the XLA path does, in interpret mode."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tempo_jax import sharding
from tempo_jax.models import decoder, rope
from tempo_jax.models.kernels import attention, qk_norm_rope, splash
from tempo_jax.models.layers import RMSNorm
from tempo_jax.models.presets import TINY

SIZE = qk_norm_rope.LANES


def inputs(rows=2, tokens=256, heads=4):
    x, scale, angles, weights = (
        jax.random.normal(jax.random.key(i), shape)
        for i, shape in enumerate(
            [(rows, tokens, heads * SIZE), (SIZE,), (rows, tokens, SIZE // 2), (rows, heads, tokens, SIZE)]
        )
    )
    return x, 1 + scale / 4, 6 * angles, weights


def norm_of(scale) -> RMSNorm:
    norm = RMSNorm(SIZE, 1e-6)
    norm.scale = nnx.Param(scale)
    return norm


def plain(x, scale=None, angles=None, times=1.0):
    x = x.reshape(*x.shape[:2], -1, SIZE)
    if scale is not None:
        x = norm_of(scale)(x)
    if angles is not None:
        x = rope.rotate(x, angles)
    return x.swapaxes(1, 2) * times


def ours(x, scale=None, angles=None, times=1.0):
    norm = None if scale is None else norm_of(scale)
    return qk_norm_rope.to_head_major(x, norm=norm, angles_BLR=angles, scale=times, interpret=True)


# Name -> sizes, whether normed, whether rotated, factor. Steps have at most 512 tokens and 8 heads.
CASES = {
    "queries": ({}, True, True, 0.3),
    "keys, not normed": ({}, False, True, 1.0),
    "values": ({}, False, False, 1.0),
    "blocks of tokens and heads": ({"rows": 1, "tokens": 640, "heads": 12}, True, True, 1.0),
    "one head": ({"heads": 1}, True, False, 1.0),
}


@pytest.mark.parametrize(("sizes", "normed", "rotated", "times"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("mesh", [None, (1, 2, 2)])
def test_values_and_gradients_are_those_of_the_xla_path(sizes, normed, rotated, times, mesh):
    x, scale, angles, weights = inputs(**sizes)
    given = (x, *([scale] if normed else []))

    def total(turn):
        def run(x, scale=None):
            return (turn(x, scale, angles if rotated else None, times) * weights).sum()

        return run

    with jax.set_mesh(sharding.make_mesh(*mesh or (1,))):
        np.testing.assert_allclose(
            jax.jit(lambda *a: ours(*a, *[None] * (2 - len(a)), angles if rotated else None, times))(*given),
            plain(*given, *[None] * (2 - len(given)), angles if rotated else None, times),
            atol=1e-5,
        )
        wrt = tuple(range(len(given)))
        got, wanted = (jax.jit(jax.grad(total(f), wrt))(*given) for f in (ours, plain))
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-5)


def test_one_table_of_angles_serves_all_rows():
    x, scale, angles, _ = inputs()
    same = jnp.broadcast_to(angles[:1], angles.shape)
    np.testing.assert_array_equal(ours(x, scale, angles[:1]), ours(x, scale, same))


def test_the_way_back_undoes_the_way_there():
    x, *_ = inputs()
    back = qk_norm_rope.from_head_major(ours(x), interpret=True)
    np.testing.assert_array_equal(back, x)
    d = jax.grad(lambda y: (qk_norm_rope.from_head_major(y, interpret=True) * x).sum())(ours(x))
    np.testing.assert_array_equal(d, ours(x))


def test_half_precision_rounds_where_the_xla_path_does():
    x, scale, angles, _ = inputs()
    x, scale = x.astype(jnp.bfloat16), scale.astype(jnp.bfloat16)
    got, wanted = ours(x, scale, angles), plain(x, scale, angles)
    assert jnp.mean(got != wanted) < 1e-4, "other than where a product is fused with a sum"
    np.testing.assert_allclose(got.astype(jnp.float32), wanted.astype(jnp.float32), rtol=2**-7, atol=1e-4)


def test_a_decoder_layer_is_the_same_with_the_kernels(monkeypatch):
    """Norms, rotation and the scale of queries fall on the right heads: values and all gradients."""
    config = dataclasses.replace(TINY.llm, head_dim=SIZE, num_layers=2)
    model = decoder.Decoder(config, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 128, config.hidden_size))
    positions = jnp.broadcast_to(jnp.arange(128), (2, 128))

    graph, state = nnx.split(model)

    def gradients():
        def total(state, x):
            return jnp.sin(3 * nnx.merge(graph, state)(x, positions)).sum()

        return jax.jit(jax.grad(total, (0, 1)))(state, x)  # traced anew each time

    wanted = gradients()
    kernels = []
    for module, name in (
        (qk_norm_rope, "to_head_major"),
        (qk_norm_rope, "from_head_major"),
        (splash, "splash_attention"),
    ):
        real = getattr(module, name)

        def run(*args, real=real, name=name, **options):
            kernels.append(name)
            return real(*args, **options, interpret=True)

        monkeypatch.setattr(module, name, run)
    for module in (attention, decoder):
        monkeypatch.setattr(module, "platform", lambda: "tpu")
    monkeypatch.setattr(splash, "is_supported", lambda q, k: True)
    monkeypatch.setattr(qk_norm_rope, "is_supported", lambda dtype, length, size: True)
    got = gradients()
    assert kernels[:5] == ["to_head_major"] * 3 + ["splash_attention", "from_head_major"]
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max()))
