"""The kernel for one new token against the XLA path, in interpret mode; test_plan_tpu.py compiles it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tempo_jax import sharding
from tempo_jax.models import decoder, rope
from tempo_jax.models.kernels import decode_attention
from tempo_jax.models.kernels.attention import attention
from tempo_jax.models.presets import TINY

SIZE = 128


def drawn(key, *shape, dtype=jnp.bfloat16):
    return jax.random.normal(jax.random.key(key), shape, jnp.float32).astype(dtype)


def case(batch, heads, group, slots):
    projected = tuple(
        drawn(i, batch, 1, count * SIZE) for i, count in enumerate((heads * group, heads, heads))
    )
    cache = tuple(drawn(i, batch, heads, slots, SIZE) for i in (3, 4))
    angles = rope.angles(jnp.arange(batch)[:, None] + 5, rope.inverse_frequencies(SIZE, 1e6), None)
    norms = tuple(decoder.RMSNorm(SIZE, 1e-6) for _ in range(2))
    for i, norm in enumerate(norms):
        norm.scale[...] = 1 + 0.1 * drawn(7 + i, SIZE, dtype=jnp.float32)
    return projected, cache, angles, norms


def plainly(projected, cache, position_B, angles, norms):
    """The same by the XLA path, in float32 but for what the kernel rounds."""
    q, k, v = (x.reshape(*x.shape[:2], -1, SIZE) for x in projected)
    if norms is not None:
        q, k = (norm(x) for norm, x in zip(norms, (q, k), strict=True))
    q, k = rope.rotate(q, angles), rope.rotate(k, angles)
    rows = jnp.arange(q.shape[0])
    keys, values = (
        buffer.at[rows, :, position_B].set(new[:, 0].astype(buffer.dtype))
        for buffer, new in zip(cache, (k, v), strict=True)
    )
    valid = jnp.arange(keys.shape[2]) <= position_B[:, None]
    q, keys, values = (x.astype(jnp.float32) for x in (q, keys, values))
    out = attention(q, keys.swapaxes(1, 2), values.swapaxes(1, 2), kv_valid_BS=valid)
    return out.reshape(*out.shape[:2], -1), k.reshape(*k.shape[:2], -1)


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize(
    ("group", "slots", "positions"),
    [
        (4, 96, (0, 95)),  # one block; nothing written yet, and all but the last slot
        (2, 4096, (2048, 17)),  # whole blocks, one of them not reached
        (1, 2500, (2499, 2100)),  # a block that reaches beyond the cache
        (20, 64, (63, 1)),  # more queries to a key than are stored together
    ],
)
def test_it_is_attention_over_what_is_written(group, slots, positions, normed):
    projected, cache, angles, norms = case(2, 2, group, slots)
    cache = jax.tree.map(
        lambda x: jnp.where(jnp.arange(slots)[:, None] >= jnp.array(positions)[:, None, None, None], 1e4, x),
        cache,
    )  # whatever is not written
    position = jnp.array(positions)
    norms = norms if normed else None
    out, key = decode_attention.attend(projected, cache, position, angles, norms=norms, interpret=True)
    expected, expected_key = plainly(projected, cache, position, angles, norms)
    np.testing.assert_allclose(np.float32(key), np.float32(expected_key), atol=0.04, rtol=0.01)
    np.testing.assert_allclose(np.float32(out), np.float32(expected), atol=0.02, rtol=0.02)
    assert out.shape == projected[0].shape and out.dtype == key.dtype == jnp.bfloat16


def model(**changes):
    config = dataclasses.replace(TINY.llm, head_dim=SIZE, num_layers=2, **changes)
    return decoder.Decoder(config, rngs=nnx.Rngs(0))


def with_kernel(monkeypatch):
    """As on a TPU, but for the kernel's own code; what it is called with."""
    real, calls = decode_attention.attend, []

    def run(*args, **options):
        calls.append(args)
        return real(*args, **options, interpret=True)

    monkeypatch.setattr(decode_attention, "attend", run)
    monkeypatch.setattr(decode_attention, "is_supported", lambda dtype, size: True)
    monkeypatch.setattr(decoder, "platform", lambda: "tpu")
    monkeypatch.setattr(decoder, "constrain_cache_layout", lambda x, rules: x)
    return calls


def steps(llm, per_layer):
    """Three tokens of two rows of 5 and 3 tokens; where layers differ, the second layer has seen 2 fewer."""
    heads = llm.config.num_kv_heads
    cache = [tuple(drawn(2 * i + j, 2, heads, 16, SIZE, dtype=jnp.float32) for j in (0, 1)) for i in (0, 1)]
    position, found = jnp.array([5, 3]), []

    @jax.jit
    def step(x, position, cache):
        return llm.decode_step(x, position, cache)

    for i in range(3):
        x = drawn(20 + i, 2, 1, llm.config.hidden_size, dtype=jnp.float32)
        where = position + i - jnp.array([[0], [2]]) if per_layer else position + i
        hidden, cache = step(x, where, cache)
        found.append(hidden)
    return found, cache


@pytest.mark.parametrize("per_layer", [False, True])
def test_a_decoder_steps_the_same_with_the_kernel(monkeypatch, per_layer):
    llm = model()
    wanted = steps(llm, per_layer)
    calls = with_kernel(monkeypatch)
    got = steps(llm, per_layer)
    assert len(calls) == 2, "a call for each layer"
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("qkv", [True, False])
def test_chips_attend_with_heads_of_their_own(monkeypatch, qkv):
    """Also without norms and with biases, as Qwen2.5 has it; heads over two chips, rows on all."""
    llm = model(qkv_bias=qkv, qk_norm=not qkv)
    wanted = steps(llm, False)
    calls = with_kernel(monkeypatch)
    with jax.set_mesh(sharding.make_mesh(2, 2, 2, jax.devices())):
        got = steps(llm, False)
    assert calls and llm.config.num_kv_heads % 2 == 0
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5)
