"""Programs of a CPU: compiler options of its own, and groups of examples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tempo_jax import sharding
from tempo_jax.runtime import platform_jit
from tempo_jax.runtime.row_groups import in_groups


def matmul(x, y, *, twice: bool):
    return x @ y * (2 if twice else 1)


def test_a_cpu_multiplies_without_ynnpack():
    x, y = jnp.ones((512, 256)), jnp.ones((256, 512))
    program = platform_jit.platform_jit(static_argnames="twice")(matmul)
    text = program.lower(x, y, twice=True).compile().as_text()
    plain = jax.jit(matmul, static_argnames="twice").lower(x, y, twice=True).compile().as_text()
    assert "ynn_fusion" in plain and "ynn_fusion" not in text
    assert program.__name__ == "matmul"
    np.testing.assert_array_equal(program(x, y, twice=True), 512.0)
    assert program._cache_size() == 1
    program.clear_cache()
    assert program._cache_size() == 0


def test_options_that_this_xla_does_not_have_are_left_out():
    decorate = platform_jit.platform_jit(cpu_options={"xla_cpu_of_another_version": True})
    assert decorate(lambda x: x + 1)(jnp.float32(1)) == 2


def test_inside_another_traced_function_it_has_no_options_of_its_own():
    program = platform_jit.platform_jit(static_argnames="twice")(matmul)
    x = jnp.ones((512, 256))
    assert jax.eval_shape(functools.partial(program, twice=False), x, x.T).shape == (512, 512)
    np.testing.assert_array_equal(jax.jit(lambda x: program(x, x.T, twice=True))(x), 512.0)


def test_another_platform_gets_no_options(monkeypatch):
    program = platform_jit.platform_jit(static_argnames="twice")(matmul)
    monkeypatch.setattr(platform_jit, "platform", lambda: "tpu")
    x = jnp.ones((512, 256))
    assert "ynn_fusion" in program.lower(x, x.T, twice=False).compile().as_text()


@pytest.mark.parametrize(
    ("batch", "rows", "sizes"), [(1, 9000, {1}), (3, 1024, {1}), (6, 900, {2}), (4, 512, {4})]
)
def test_groups_of_examples(batch, rows, sizes):
    """Axes are those of jax.vmap, and a program on a mesh takes the whole batch."""

    def function(pair, scale_S):
        seen.add(scale_S.shape[0])
        x_SD, y_FSD = pair
        return {"sum": x_SD.sum(-1) * scale_S, "all": [y_FSD * scale_S[:, None]]}

    seen: set[int] = set()
    pair = (jnp.ones((batch, 4)), jnp.arange(2.0 * batch * 4).reshape(2, batch, 4))
    scale = jnp.arange(1.0, batch + 1)
    grouped = in_groups(function, ((0, 1), 0), {"sum": 0, "all": 1}, rows=rows)(pair, scale)
    assert seen == sizes
    jax.tree.map(np.testing.assert_array_equal, grouped, function(pair, scale))
    with jax.set_mesh(sharding.make_mesh()):
        assert in_groups(function, 0, 0, rows=rows) is function
