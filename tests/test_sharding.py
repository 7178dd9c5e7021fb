"""The sharding table knows every parameter, and places it on any mesh."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import mapping
from tempo_jax import sharding
from tempo_jax.errors import TempoError
from tempo_jax.models import build
from tempo_jax.models import presets as cfg
from tempo_jax.models.layers import gather_rows
from tempo_jax.utils.tree import flatten, nest

QWEN25 = dataclasses.replace(cfg.QWEN3_4B, qk_norm=False, qkv_bias=True, tie_embeddings=False)
MLP = dataclasses.replace(cfg.TINY, projector="mlp2x_gelu")
CASES = {
    "tempo-6b": ("tempo", cfg.TEMPO_6B),
    "tiny": ("tempo", cfg.TINY),
    "mlp projector": ("tempo", MLP),
    "qwen3": ("qwen3", cfg.QWEN3_4B),
    "qwen2.5": ("qwen3", QWEN25),
    "qwen3-vl": ("qwen3-vl", cfg.QWEN3_VL_2B),
    "xcomp": ("xcomp", cfg.XCOMP_2B),
}


@pytest.mark.parametrize(("kind", "config"), CASES.values(), ids=CASES)
def test_the_table_is_complete(kind, config):
    for path, shape in mapping.native_shapes(kind, config).items():
        axes = sharding.logical_axes(path, len(shape))
        assert all(hasattr(sharding.DEFAULT_RULES, axis) for axis in axes)
        # What is worth splitting is split: no matrix of a backbone is left whole on every chip.
        if len(shape) > 1 and min(shape[-2:]) >= 1024:
            assert set(axes) - {"none", "layers"}, path


def test_every_row_is_used():
    paths = [p for kind, config in CASES.values() for p in mapping.native_shapes(kind, config)]
    for pattern, axes in sharding.PARAMETERS:
        alone = [p for p in paths if sharding._parameter_rule(p) == (pattern, axes)]
        assert alone, f"{pattern} matches nothing, or only what an earlier row matches"


def test_layers_one_by_one_are_placed_as_in_a_stack():
    mesh = sharding.make_mesh(2, 2, 2)
    stacked = flatten(build.shapes(cfg.TINY))
    single = flatten(build.shapes(cfg.TINY, stacked=False))
    assert len(single) > len(stacked)
    for path, leaf in single.items():
        parts = path.split("/")
        whole = "/".join(p for i, p in enumerate(parts) if not (p.isdigit() and parts[i - 1] != "projector"))
        spec = sharding.param_sharding(path, leaf.shape, mesh).spec
        if whole in stacked and len(stacked[whole].shape) == len(leaf.shape) + 1:
            spec_of_stack = sharding.param_sharding(whole, stacked[whole].shape, mesh).spec
            assert (None, *spec) == tuple(spec_of_stack), path


def test_known_placements():
    mesh = sharding.make_mesh(1, 4, 2)

    def spec(path):
        return sharding.param_sharding(path, mapping.native_shapes("tempo", cfg.TEMPO_6B)[path], mesh).spec

    assert spec("llm/layers/mlp/up/kernel") == jax.P(None, "fsdp", "tensor")
    assert spec("llm/layers/attention/o/kernel") == jax.P(None, "tensor", "fsdp")
    assert spec("llm/embed/embedding") == jax.P("tensor", "fsdp")
    assert spec("compressor/text/norm/scale") == jax.P(None)


def test_every_chip_reads_its_segments_with_weights_of_its_own():
    """Only the LLM is split by heads; what reads segments is split over fsdp alone."""
    mesh = sharding.make_mesh(1, 4, 2)
    shapes = mapping.native_shapes("tempo", cfg.TEMPO_6B)

    def spec(path):
        return sharding.param_sharding(path, shapes[path], mesh).spec

    assert spec("llm/layers/mlp/up/kernel") == jax.P(None, "fsdp", "tensor")
    assert spec("compressor/text/layers/mlp/up/kernel") == jax.P(None, "fsdp", None)
    assert spec("compressor/vision/blocks/mlp/fc2/kernel") == jax.P(None, None, "fsdp")
    encoder = sharding.partition_spec(("batch", "heads"), (16, 8), mesh, sharding.ENCODER_RULES)
    assert encoder == jax.P(("fsdp", "tensor"), None)
    assert sharding.partition_spec(("batch", "heads"), (16, 8), mesh) == jax.P("fsdp", "tensor")


def test_axes_that_do_not_divide_are_dropped():
    mesh = sharding.make_mesh(2, 4, 1)
    assert sharding.partition_spec(("batch", "none"), (16, 3), mesh) == jax.P(("data", "fsdp"), None)
    assert sharding.partition_spec(("batch", "none"), (6, 3), mesh) == jax.P("data", None)
    assert sharding.partition_spec(("batch", "none"), (5, 3), mesh) == jax.P(None, None)
    assert sharding.partition_spec(("embed", "mlp"), (8, 8), mesh) == jax.P("fsdp", None)


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 4, 2), (1, 8, 1), (1, 1, 8), (1, 1, 1)])
def test_tiny_tree_on_any_mesh(shape):
    mesh = sharding.make_mesh(*shape)
    shapes = build.shapes(cfg.TINY)
    places = flatten(sharding.tree_shardings(shapes, mesh))
    for path, leaf in flatten(shapes).items():
        places[path].shard_shape(leaf.shape)  # raises where it does not divide
    x = jax.device_put(
        jnp.arange(32.0).reshape(8, 4), places["llm/layers/mlp/up/kernel"].update(spec=jax.P())
    )
    np.testing.assert_array_equal(x, np.arange(32.0).reshape(8, 4))


def test_mistakes_are_named():
    with pytest.raises(TempoError, match="takes 16 devices and there are 8"):
        sharding.make_mesh(4, 4)
    with pytest.raises(KeyError, match="no sharding for llm/mystery/kernel"):
        sharding.logical_axes("llm/mystery/kernel", 2)
    with pytest.raises(KeyError, match="has 4 axes"):
        sharding.logical_axes("llm/layers/mlp/up/kernel", 4)
    assert sharding.make_mesh(1, 2).axis_types == (jax.sharding.AxisType.Auto,) * 3


def test_a_callers_mesh_becomes_auto_and_must_have_our_axes():
    mesh = sharding.check_mesh(jax.make_mesh((2, 2, 2), sharding.AXES))
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto} and mesh.shape["fsdp"] == 2
    with pytest.raises(TempoError, match="x, y where data, fsdp, tensor are needed"):
        sharding.check_mesh(jax.make_mesh((4, 2), ("x", "y")))


def test_between_layers_weights_travel_and_activations_do_not():
    """Gradients of a decoder over eight chips: whatever the compiler moves has the shape of a parameter."""
    config = dataclasses.replace(cfg.DEMO.llm, hidden_size=64, vocab_size=64)
    mesh = sharding.make_mesh(fsdp=8)
    flat = flatten(build.parameters(build.init(config)))
    placed = {
        path: jax.device_put(x, sharding.param_sharding(path, x.shape, mesh)) for path, x in flat.items()
    }

    def total(params, x_BLD):
        return build.build(config, params)(x_BLD, jnp.broadcast_to(jnp.arange(40), (16, 40))).sum()

    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(total)).lower(nest(placed), jnp.zeros((16, 40, 64)))
        text = step.compile().as_text()
    moved = re.findall(r"= \w+\[([\d,]*)\]\S* (?:all-gather|all-reduce|all-to-all)\(", text)
    assert moved
    shapes = {tuple(sorted(x.shape[1:] if "layers/" in path else x.shape)) for path, x in flat.items()}
    assert {tuple(sorted(map(int, shape.split(",")))) for shape in moved} <= shapes


@pytest.mark.parametrize(("shards", "stays"), [(8, True), (1, False)])
def test_a_chip_gathers_from_its_own_part_of_a_pool(shards, stays):
    """Values and gradient are those of plain indexing; told of the parts, nothing crosses between chips."""
    pool = jnp.asarray(np.random.RandomState(0).standard_normal((16 * 12, 32)), jnp.float32)
    own = np.random.RandomState(1).randint(-1, 24, (16, 40))
    index = jnp.asarray(np.where(own < 0, -1, own + np.arange(16)[:, None] // 2 * 24))

    def total(pool):
        rows = jnp.where((index >= 0)[..., None], gather_rows(pool, index, shards), 0.0)
        return jnp.sum(rows * jnp.arange(40)[:, None])

    def plain(pool):
        rows = jnp.where((index >= 0)[..., None], pool[jnp.maximum(index, 0)], 0.0)
        return jnp.sum(rows * jnp.arange(40)[:, None])

    mesh = sharding.make_mesh(fsdp=8)
    placed = jax.device_put(pool, jax.NamedSharding(mesh, jax.P("fsdp")))
    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(total), out_shardings=placed.sharding)
        text = step.lower(placed).compile().as_text()
        np.testing.assert_allclose(step(placed), jax.grad(plain)(pool), rtol=1e-6)
    np.testing.assert_allclose(total(pool), plain(pool), rtol=1e-6)
    moved = re.findall(
        r"= (?:\w+\[[\d,]+\]\S*|\(.*?\)) (?:all-gather|all-reduce|all-to-all|reduce-scatter)\(", text
    )
    assert (not moved) == stays


def test_a_batch_that_does_not_divide_is_one_part():
    pool, index = jnp.arange(12.0).reshape(6, 2), jnp.array([[5, -1, 0]])
    np.testing.assert_array_equal(gather_rows(pool, index, 4)[0, [0, 2]], pool[jnp.array([5, 0])])
