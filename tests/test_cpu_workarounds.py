"""What is multiplied in another way on a CPU: bfloat16, logits of few rows, and attention to a cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tempo_jax.models import cpu_workarounds
from tempo_jax.models.kernels.attention import attend_to_cache, attention


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


def copies_embeddings(text: str) -> bool:
    """Whether a bfloat16 embedding [512, 256] is written out as a float32 one."""
    return any("= f32[512,256]{1,0} fusion(" in line for line in text.splitlines())


def test_xla_still_copies_embeddings_for_rows():
    """If this fails, cpu_workarounds.logits is needed no longer."""
    assert copies_embeddings(compiled(lambda x, embedding: x @ embedding.T, (2, 256), (512, 256)))


@pytest.mark.parametrize("shape", ((1, 256), (2, 256), (8, 256), (2, 3, 256)))
def test_logits_of_few_rows_copy_no_embeddings(shape):
    def logits(x, embedding):
        return cpu_workarounds.logits(x, embedding.T)

    assert not copies_embeddings(compiled(logits, shape, (512, 256)))
    x, embedding = (
        jax.random.normal(jax.random.key(i), s, jnp.bfloat16) for i, s in enumerate((shape, (512, 256)))
    )
    y = logits(x, embedding)
    exact = np.asarray(x, np.float32) @ np.asarray(embedding, np.float32).T
    assert y.shape == exact.shape and y.dtype == jnp.float32
    np.testing.assert_allclose(y, exact, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("rows", [1, 3])
def test_one_query_attends_to_a_cache_as_it_lies(rows):
    keys = jax.random.split(jax.random.key(0), 3)
    q = jax.random.normal(keys[0], (rows, 1, 8, 16))
    k, v = (jax.random.normal(key, (rows, 2, 40, 16)) for key in keys[1:])
    valid = jnp.arange(40) < jnp.arange(7, 7 + rows)[:, None]
    expected = attention(q, k.swapaxes(1, 2), v.swapaxes(1, 2), scale=0.3, kv_valid_BS=valid)
    np.testing.assert_allclose(attend_to_cache(q, k, v, valid, 0.3), expected, atol=1e-6)
    text = jax.jit(attend_to_cache).lower(q, k, v, valid, 0.3).compile().as_text()
    assert not any("transpose(" in line and "40" in line.split("transpose(")[0] for line in text.splitlines())
