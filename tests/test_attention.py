"""Attention's paths agree with the plain formula, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tempo_jax.models.kernels.attention import attention


def plain(q, k, v, documents):
    """softmax(q k^T / sqrt(H)) v, a loop over nothing: every score at once."""
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) / q.shape[-1] ** 0.5
    seen = jnp.tril(jnp.ones(scores.shape[-2:], bool))[None, None]
    if documents is not None:
        seen = seen & (documents[:, :, None] == documents[:, None, :])[:, None]
    shares = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bnts,bsnh->btnh", shares, v)


@pytest.mark.parametrize("length", (100, 300))  # one block, and three of which the last is short
@pytest.mark.parametrize("packed", (False, True))
def test_causal_attention_agrees_with_the_formula_and_its_gradients(length, packed):
    shapes = ((2, length, 4, 16), (2, length, 2, 16), (2, length, 2, 16), (2, length, 4, 16))
    q, k, v, weights = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes))
    rng = np.random.default_rng(0)
    documents = jnp.asarray(np.sort(rng.integers(0, 4, (2, length)))) if packed else None

    def total(attend):
        return lambda q, k, v: (attend(q, k, v) * weights).sum()

    def ours(q, k, v):
        return attention(q, k, v, causal=True, segment_ids_BT=documents)

    def theirs(q, k, v):
        return plain(q, k, v, documents)

    np.testing.assert_allclose(ours(q, k, v), theirs(q, k, v), atol=2e-6)
    got, wanted = (jax.grad(total(f), (0, 1, 2))(q, k, v) for f in (ours, theirs))
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_scores_may_have_a_scale_of_their_own():
    q, k, v = (jax.random.normal(jax.random.key(i), (1, 20, 2, 16)) for i in range(3))
    np.testing.assert_allclose(attention(q / 3, k, v, scale=0.75), attention(q, k, v), atol=1e-6)
