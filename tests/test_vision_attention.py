"""The vision towers' kernel computes what the XLA path does, in interpret mode: values and gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tempo_jax import sharding
from tempo_jax.models import rope, umt, vision
from tempo_jax.models.kernels import attention, vision_attention
from tempo_jax.models.layers import REMAT_POLICIES
from tempo_jax.models.presets import TINY

# Name -> rows, tokens, heads, size of a head, whether rotated.
CASES = {
    "two heads to a tile": (2, 256, 4, 64, True),
    "padded": (2, 200, 4, 64, True),
    "not rotated": (1, 128, 2, 64, False),
    "blocks of queries": (1, 1280, 2, 64, True),
    "four heads to a tile": (2, 128, 8, 32, True),
    "a head to a tile, three tiles": (1, 140, 3, 128, True),
}


def inputs(rows, tokens, heads, size, rotates):
    shapes = ((3, rows, tokens, heads * size), (3, heads * size), (rows, tokens, heads * size))
    qkv, bias, weights = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes))
    angles = 6 * jax.random.uniform(jax.random.key(3), (tokens, size // 2)) if rotates else None
    return qkv, bias, weights, angles


def plain(qkv, bias, heads, angles):
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in qkv + bias[:, None, None])
    if angles is not None:
        q, k = (rope.rotate(x, angles[None]) for x in (q, k))
    return attention._blockwise(q, k, v, False, None).reshape(qkv.shape[1:])


@pytest.mark.parametrize(("rows", "tokens", "heads", "size", "rotates"), CASES.values(), ids=CASES)
def test_values_and_gradients_are_those_of_the_xla_path(rows, tokens, heads, size, rotates):
    qkv, bias, weights, angles = inputs(rows, tokens, heads, size, rotates)

    def ours(qkv, bias):
        return vision_attention.attend(qkv, bias, heads, angles, interpret=True)

    def theirs(qkv, bias):
        return plain(qkv, bias, heads, angles)

    def total(attend):
        return lambda *args: (attend(*args) * weights).sum()

    np.testing.assert_allclose(ours(qkv, bias), theirs(qkv, bias), atol=1e-5)
    got, wanted = (jax.jit(jax.grad(total(f), (0, 1)))(qkv, bias) for f in (ours, theirs))
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("case", ["padded", "not rotated"])
def test_the_gradient_of_long_rows_is_splash_attentions(case, monkeypatch):
    qkv, bias, weights, angles = inputs(*CASES[case])
    _, _, heads, *_ = CASES[case]

    def gradient():
        def total(*args):
            return (vision_attention.attend(*args, heads, angles, interpret=True) * weights).sum()

        return jax.grad(total, (0, 1))(qkv, bias)

    wanted = gradient()
    monkeypatch.setattr(vision_attention, "MAX_BACKWARD_LENGTH", 64)
    for a, b in zip(gradient(), wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_half_precision_rounds_where_the_xla_path_does():
    """Angles and softmax are float32; as far from exact numbers as XLA's own half precision is."""
    qkv, bias, _, angles = inputs(2, 256, 4, 64, True)
    half = [x.astype(jnp.bfloat16) for x in (qkv, bias)]
    exact = plain(*(x.astype(jnp.float32) for x in half), 4, angles)
    ours = vision_attention.attend(*half, 4, angles, interpret=True)
    theirs = plain(*half, 4, angles)
    assert ours.dtype == jnp.bfloat16

    def distance(x):
        return jnp.sqrt(jnp.mean((x.astype(jnp.float32) - exact) ** 2))

    assert distance(ours) < 1.1 * distance(theirs) < 0.01


def test_a_mesh_splits_rows_and_changes_nothing():
    qkv, bias, weights, angles = inputs(8, 128, 2, 64, True)

    def run(qkv, bias):
        out = vision_attention.attend(qkv, bias, 2, angles, interpret=True)
        return (out * weights).sum(), out

    alone = jax.value_and_grad(run, (0, 1), has_aux=True)(qkv, bias)
    with jax.set_mesh(sharding.make_mesh(2, 2, 2)):
        spread = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))(qkv, bias)
    for a, b in zip(jax.tree.leaves(spread), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert spread[0][1].sharding.shard_shape((8, 128, 128)) == (1, 128, 128)


def test_the_gradient_splits_rows_as_the_tower_did():
    """It has the mesh axes from the forward pass: it is traced where no mesh may be known."""
    qkv, bias, _, angles = inputs(8, 128, 2, 64, True)

    def see(qkv):
        return vision_attention.attend(qkv, bias, 2, angles, interpret=True)

    with jax.set_mesh(sharding.make_mesh(2, 2, 2)):
        traced = jax.make_jaxpr(jax.grad(lambda qkv: see(qkv).sum()))(qkv)
    *_, backward = [equation for equation in traced.eqns if "shard_map" in str(equation.primitive)]
    d_out, *_ = backward.params["in_specs"]
    assert d_out == jax.P(sharding.AXES)


def test_rematerialisation_may_keep_what_the_kernel_gave(capsys):
    qkv, bias, _, angles = inputs(1, 128, 2, 64, True)

    @functools.partial(jax.checkpoint, policy=REMAT_POLICIES["attention"])
    def layer(qkv, bias):
        return (vision_attention.attend(qkv, bias, 2, angles, interpret=True) ** 2).sum()

    jax.ad_checkpoint.print_saved_residuals(layer, qkv, bias)
    lines = capsys.readouterr().out.splitlines()
    saved = [line for line in lines if "from a" not in line and "argument" not in line]
    assert [line.split()[0] for line in saved] == ["f32[1,128,128]"], saved


@pytest.fixture
def on_a_tpu(monkeypatch):
    """Towers choose as on a TPU, in float32 too; the kernel is interpreted."""
    interpreted = functools.partial(vision_attention.attend, interpret=True)
    monkeypatch.setattr(vision_attention, "is_supported", lambda dtype, length, width, heads: True)
    monkeypatch.setattr(vision_attention, "attend", interpreted)
    for module in (vision, umt):
        monkeypatch.setattr(module, "platform", lambda: "tpu")


def test_qwen3_vls_tower_is_the_same_with_the_kernel(request):
    config = dataclasses.replace(TINY.compressor.vision, hidden_size=128, num_heads=2)
    block = vision.VisionAttention(config, rngs=nnx.Rngs(0))
    block.qkv.bias[...] = jax.random.normal(jax.random.key(3), 3 * 128)
    x, angles = (jax.random.normal(jax.random.key(i), (n, 16, w)) for i, n, w in ((1, 2, 128), (2, 1, 32)))
    wanted = block(x, angles)
    request.getfixturevalue("on_a_tpu")
    np.testing.assert_allclose(block(x, angles), wanted, atol=1e-5)


def test_xcomps_tower_is_the_same_with_the_kernel(request):
    """Its keys have no bias."""
    config = umt.UMTConfig(hidden_size=128, intermediate_size=128, depth=1, num_heads=2)
    block = umt.UMTAttention(config, rngs=nnx.Rngs(0))
    block.q_bias[...], block.v_bias[...] = jax.random.normal(jax.random.key(3), (2, 128))
    x = jax.random.normal(jax.random.key(1), (2, 16, 128))
    wanted = block(x)
    request.getfixturevalue("on_a_tpu")
    np.testing.assert_allclose(block(x), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "length", "width", "heads", "fits"),
    [
        (jnp.bfloat16, 512, 1024, 16, True),
        (jnp.bfloat16, 364, 1024, 16, True),
        (jnp.float32, 512, 1024, 16, False),  # stays exact with XLA
        (jnp.bfloat16, vision_attention.MAX_KEYS + 1, 1024, 16, False),
        (jnp.bfloat16, 512, 1152, 12, False),  # heads of 96 share no tile
        (jnp.bfloat16, 512, 64, 1, False),
    ],
)
def test_the_kernel_takes_whole_heads_in_whole_tiles(dtype, length, width, heads, fits):
    assert vision_attention.is_supported(dtype, length, width, heads) == fits
