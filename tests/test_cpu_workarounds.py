"""Matmuls of bfloat16 on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tempo_jax.models import cpu_workarounds


def compiled(function, *shapes) -> str:
    arrays = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes)
    return jax.jit(function).lower(*arrays).compile().as_text()


def converts_kernel(text: str) -> bool:
    """Whether a bfloat16 kernel [256, 512] becomes a float32 one."""
    return any("f32[256,512]" in line and "convert" in line for line in text.splitlines())


@pytest.mark.parametrize("rows", (1, 64))
def test_xla_still_converts_bfloat16(rows):
    """If this fails, models/cpu_workarounds.py is needed no longer."""
    assert converts_kernel(compiled(jnp.matmul, (rows, 256), (256, 512)))


@pytest.mark.parametrize("shape", ((1, 256), (1, 1, 256), (64, 256), (2, 3, 256)))
def test_bfloat16_is_multiplied_as_it_is(shape):
    assert not converts_kernel(compiled(cpu_workarounds.matmul, shape, (256, 512)))
    x, kernel = (
        jax.random.normal(jax.random.key(i), s, jnp.bfloat16) for i, s in enumerate((shape, (256, 512)))
    )
    y = cpu_workarounds.matmul(x, kernel)
    exact = np.asarray(x, np.float32) @ np.asarray(kernel, np.float32)
    assert y.shape == exact.shape and y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float32), exact, rtol=2**-8, atol=1e-3)


def test_float32_is_left_alone():
    x, kernel = jnp.ones((1, 4)), jnp.ones((4, 3))
    assert str(jax.make_jaxpr(cpu_workarounds.matmul)(x, kernel)) == str(
        jax.make_jaxpr(jnp.matmul)(x, kernel)
    )
