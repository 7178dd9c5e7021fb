"""Splash attention computes what the XLA path does, in interpret mode: values and gradients."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tempo_jax import sharding
from tempo_jax.models.kernels import attention, splash
from tempo_jax.models.layers import REMAT_POLICIES

DOCUMENTS = jnp.asarray(np.repeat([[1, 2, 0]], 2, axis=0).repeat(80, axis=1))
# Name -> queries, keys, arguments: vision tower, compressor, a packed LLM row, a question after prefixes.
CASES = {
    "full": (128, 128, {}),
    "full with padding": (200, 200, {}),
    "causal with padding": (200, 200, {"causal": True}),
    "several texts": (240, 240, {"causal": True, "segment_ids_BT": DOCUMENTS}),
    "after prefixes": (
        128,
        256,
        {
            "causal": True,
            "kv_valid_BS": (jnp.arange(256) >= 128) | (jnp.arange(256) < jnp.array([[100], [7]])),
        },
    ),
}


def inputs(queries, keys, heads=4, pairs=2, size=64):
    shapes = (
        (2, queries, heads, size),
        (2, keys, pairs, size),
        (2, keys, pairs, size),
        (2, queries, heads, size),
    )
    return [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize(("queries", "keys", "options"), CASES.values(), ids=CASES)
def test_values_and_gradients_are_those_of_the_xla_path(queries, keys, options):
    *qkv, weights = inputs(queries, keys)

    def total(attend):
        return lambda *qkv: (attend(*qkv) * weights).sum()

    def ours(*qkv):
        return splash.splash_attention(*qkv, **options, interpret=True)

    def theirs(*qkv):
        known = {"causal": False, "kv_valid_BS": None, "segment_ids_BT": None} | options
        return attention._blockwise(*qkv, known["causal"], known["kv_valid_BS"], known["segment_ids_BT"])

    np.testing.assert_allclose(ours(*qkv), theirs(*qkv), atol=5e-6)
    got, wanted = (jax.jit(jax.grad(total(f), (0, 1, 2)))(*qkv) for f in (ours, theirs))
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)


@pytest.mark.parametrize("mesh", [None, (1, 2, 2)])
@pytest.mark.parametrize(("remat", "kept"), [("full", 0), ("attention", 2)])
def test_rematerialisation_may_keep_what_the_kernel_gave(remat, kept, mesh, capsys):
    """Its output and every row's log-sum, so that no kernel runs twice (test_plan_tpu.py counts them)."""
    *qkv, _ = inputs(128, 128)

    @functools.partial(jax.checkpoint, policy=REMAT_POLICIES[remat])
    def layer(*qkv):
        return (splash.splash_attention(*qkv, causal=True, interpret=True) ** 2).sum()

    with contextlib.nullcontext() if mesh is None else jax.set_mesh(sharding.make_mesh(*mesh)):
        jax.ad_checkpoint.print_saved_residuals(layer, *qkv)
    saved = [
        line
        for line in capsys.readouterr().out.splitlines()
        if "from a" not in line and "argument" not in line
    ]
    assert len(saved) == kept, saved


def test_a_mesh_splits_rows_and_heads_and_changes_nothing():
    *qkv, _ = inputs(128, 128)
    alone = splash.splash_attention(*qkv, causal=True, interpret=True)
    with jax.set_mesh(sharding.make_mesh(1, 2, 2)):
        spread = jax.jit(lambda *qkv: splash.splash_attention(*qkv, causal=True, interpret=True))(*qkv)
    np.testing.assert_allclose(spread, alone, atol=1e-6)
    assert spread.sharding.shard_shape(spread.shape) == (1, 128, 2, 64)


def test_a_cpu_never_takes_the_kernel(monkeypatch):
    """Its numbers stay what they were, on a mesh too; and a TPU's float32 stays exact with XLA."""
    q, k, v, _ = (x.astype(jnp.bfloat16) for x in inputs(128, 128))
    monkeypatch.setattr(splash, "splash_attention", lambda *_, **__: pytest.fail("the kernel was chosen"))
    attention.attention(q, k, v, causal=True)
    with jax.set_mesh(sharding.make_mesh(1, 2)):
        attention.attention(q, k, v)
    assert splash.is_supported(q, k) and not splash.is_supported(q.astype(jnp.float32), k.astype(jnp.float32))
    assert not splash.is_supported(q[:, :1], k), "a decoding step has one query"


def test_a_tpu_takes_the_kernel(monkeypatch):
    q, k, v, _ = (x.astype(jnp.bfloat16) for x in inputs(128, 128))
    monkeypatch.setattr(attention, "platform", lambda: "tpu")
    monkeypatch.setattr(splash, "splash_attention", lambda *_, **options: sorted(options))
    assert attention.attention(q, k, v, causal=True) == [
        "causal", "kv_valid_BS", "rules", "scale", "segment_ids_BT",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("length", "block"), [(128, 128), (512, 512), (1024, 1024), (7168, 1024), (768, 768), (2560, 640)]
)
def test_blocks_divide_their_length(length, block):
    sizes = splash.block_sizes(length, length, causal=False)
    assert (sizes.block_q, sizes.block_kv) == (block, block) and length % block == 0


def test_a_causal_row_of_one_block_is_cut_in_two():
    """Values and gradients of rows as long as the compressor's in training are the XLA path's."""
    sizes = splash.block_sizes(1024, 1024, causal=True)
    assert (sizes.block_q, sizes.block_kv, sizes.block_kv_dkv) == (512, 512, 1024)
    *qkv, weights = (x[:1, :, :1] for x in inputs(1024, 1024))

    def total(attend):
        return lambda *qkv: (attend(*qkv) * weights).sum()

    def ours(*qkv):
        return splash.splash_attention(*qkv, causal=True, interpret=True)

    def theirs(*qkv):
        return attention._blockwise(*qkv, True, None, None)

    got, wanted = (jax.jit(jax.value_and_grad(total(f), (0, 1, 2)))(*qkv) for f in (ours, theirs))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-5)
