"""The optimiser step: frozen parts, accumulation, meshes, not-finite gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tempo_jax import sharding
from tempo_jax.data.batch_packing import Shape
from tempo_jax.data.samples import Sample
from tempo_jax.errors import TempoError
from tempo_jax.models.presets import TINY
from tempo_jax.prompts import Tokenizer
from tempo_jax.tasks.tempo import collate
from tempo_jax.training import groups, optimiser, step
from tempo_jax.utils.tree import flatten, nest
from tests.systems import recorded_frames, relative, weights

pytestmark = pytest.mark.usefixtures("quick_compilation")

ALL = dict.fromkeys(groups.LEARNABLE, 1e-3)
SHAPE = Shape(pool=2, row_length=512, conversations=1, length=256)


def conversation(question, answer):
    return [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]


@pytest.fixture(scope="module")
def batches(demo_tokenizer_dir):
    """Two conversations on small frames, as micro-batches [2, ...] and as one batch [1, ...] of both."""
    tokenizer = Tokenizer(demo_tokenizer_dir)
    samples = [
        Sample(recorded_frames(seed, count, 64, 64), 2.0, conversation(question, answer))
        for seed, count, question, answer in ((1, 11, "What?", "A red ball."), (2, 16, "Why so?", "No."))
    ]
    parts = [collate([s], tokenizer, TINY, SHAPE) for s in samples]
    both = collate(samples, tokenizer, TINY, Shape(4, SHAPE.row_length, 4, SHAPE.length))
    stack = lambda *trees: jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *trees)  # noqa: E731
    return stack(*parts), stack(both)


def params():
    return nest({path: jnp.asarray(x) for path, x in weights(16).items()})


def train(batch, rates=ALL, steps=3, mesh=None, dtype=jnp.float32):
    """Losses, gradient norms and the state after a few steps."""
    learning, frozen = groups.split(params(), rates)
    if mesh is not None:
        learning, frozen = (
            {p: jax.device_put(x, sharding.param_sharding(p, x.shape, mesh)) for p, x in flat.items()}
            for flat in (learning, frozen)
        )
        shardings = jax.tree.map(lambda spec: jax.NamedSharding(mesh, spec), step.batch_specs())
        batch = jax.device_put(batch, shardings)
    config = optimiser.OptimiserConfig(rates=rates, steps=10, warmup_ratio=0.1)
    tx = optimiser.make(config, learning)
    run = jax.jit(step.make_step(TINY, tx, dtype=dtype))
    state, history = step.initial(learning, tx), []
    for _ in range(steps):
        state, metrics = run(state, frozen, batch)
        history.append((float(metrics.loss), float(metrics.gradient_norm)))
    return np.array(history), state, frozen


@pytest.fixture(scope="module")
def whole(batches):
    return train(batches[1])


def test_it_learns(whole):
    history, state, _ = whole
    assert history[-1, 0] < history[0, 0] - 0.1
    assert int(state.step) == 3 and int(state.skipped) == 0


def test_accumulation_equals_one_big_batch(batches, whole):
    history, state, _ = train(batches[0])
    assert relative(history, whole[0]) < 1e-5
    # Adam divides by the gradient's own size, so rounding moves an entry by some of its 3e-3 of steps.
    for path, x in state.learning.items():
        np.testing.assert_allclose(x, whole[1].learning[path], atol=2e-4, err_msg=path)


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 2, 2)])
def test_meshes_give_the_curve_of_one_device(batches, whole, shape):
    history, state, _ = train(batches[1], mesh=sharding.make_mesh(*shape), steps=2)
    assert relative(history, whole[0][:2]) < 1e-5
    kernel = state.learning["llm/layers/mlp/up/kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) != kernel.shape or shape == (4, 1, 1)


def test_frozen_parts_stay_bit_identical_and_cost_no_optimiser_memory(batches):
    rates = {"memory": 1e-3, "projector": 1e-3}
    _, state, frozen = train(batches[0], rates)
    assert set(state.learning) == {p for p in flatten(params()) if groups.group_of(p) in rates}
    numbers = sum(x.size for x in jax.tree.leaves(state.optimiser))
    assert numbers <= 2 * sum(x.size for x in state.learning.values()) + 10
    before = flatten(params())
    for path, x in frozen.items():
        np.testing.assert_array_equal(x, before[path])


def test_not_finite_gradients_are_skipped_and_counted(batches):
    learning, frozen = groups.split(params(), {"projector": 1e-3})
    frozen["llm/norm/scale"] = frozen["llm/norm/scale"] * jnp.nan
    tx = optimiser.make(optimiser.OptimiserConfig({"projector": 1e-3}, 10), learning)
    state, metrics = jax.jit(step.make_step(TINY, tx, dtype=jnp.float32))(
        step.initial(learning, tx), frozen, batches[0]
    )
    assert not bool(metrics.finite) and int(state.skipped) == 1
    before = flatten(params())
    for path, x in state.learning.items():
        np.testing.assert_array_equal(x, before[path])


def test_bfloat16_computes_with_float32_masters(batches):
    history, state, _ = train(batches[0], {"memory": 1e-3, "projector": 1e-3}, dtype=jnp.bfloat16)
    assert {x.dtype for x in state.learning.values()} == {jnp.dtype("float32")}
    assert np.isfinite(history).all()


def test_every_parameter_has_a_group_and_mistakes_are_said():
    assert {groups.group_of(p) for p in weights(16)} == set(groups.GROUPS)
    with pytest.raises(TempoError, match="no parameter group tower"):
        groups.split(params(), {"tower": 1e-3})
    with pytest.raises(TempoError, match="every parameter group is frozen"):
        groups.split(params(), {"llm": 0.0})


def test_schedule():
    config = optimiser.OptimiserConfig({}, steps=100, warmup_ratio=0.1, final_ratio=0.1)
    rate = optimiser.schedule(config, 2.0)
    assert float(rate(0)) == 0 and float(rate(10)) == 2.0
    assert abs(float(rate(100)) - 0.2) < 1e-6 and float(rate(55)) == pytest.approx(1.1, abs=0.01)


def test_muon_orthogonalises_matrices_of_layers_each_by_itself_and_nothing_else():
    """Of a stack of two matrices; rates mean what they mean for AdamW."""
    rng = np.random.default_rng(0)
    params = {
        "llm/layers/mlp/up/kernel": rng.normal(size=(2, 24, 40)),
        "llm/embed/embedding": rng.normal(size=(30, 24)),
        "llm/layers/mlp_norm/scale": np.ones((2, 24)),
    }
    params = {name: jnp.asarray(x, jnp.float32) for name, x in params.items()}
    grads = {name: jnp.asarray(rng.normal(size=x.shape), jnp.float32) for name, x in params.items()}
    updates = {}
    for kind in optimiser.KINDS:
        tx = optimiser.make(
            optimiser.OptimiserConfig({"llm": 1e-2}, steps=4, kind=kind, warmup_ratio=0.25), params
        )
        state = tx.init(params)
        for _ in range(2):  # the first step of the warm-up has rate 0
            updates[kind], state = tx.update(grads, state, params)
    name = "llm/layers/mlp/up/kernel"
    for update in updates["muon"][name]:
        singular = np.linalg.svd(update, compute_uv=False)
        assert singular.max() < 2 * singular.min()
    sizes = {kind: float(jnp.sqrt(jnp.mean(update[name] ** 2))) for kind, update in updates.items()}
    assert sizes["muon"] == pytest.approx(optimiser.MUON_SIZE * sizes["adamw"], rel=0.3)
    for other in (name for name in params if "kernel" not in name):
        np.testing.assert_allclose(abs(updates["muon"][other]), 1e-2, rtol=0.2)  # Adam's, of equal gradients
