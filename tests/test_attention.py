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


@pytest.mark.parametrize("queries", (1, 40))  # a decode step, and a question after its prefix
@pytest.mark.parametrize("masked", (False, True))
def test_one_example_after_the_other_agrees_with_the_formula(queries, masked):
    """What a CPU does with a tower's slices (no mask), and with prefixes of different lengths."""
    keys, shapes = 60, ((3, queries, 4, 16), (3, 60, 2, 16), (3, 60, 2, 16))
    q, k, v = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes))
    valid = jnp.arange(keys) < jnp.array([20, 5, 13])[:, None]
    valid = valid | (jnp.arange(keys) >= keys - queries)
    past = jnp.arange(keys) <= (jnp.arange(queries) + keys - queries)[:, None]
    mask = (valid[:, None] & past)[:, None] if masked else None

    def formula(q, k, v):
        k, v = (jnp.repeat(x, 2, axis=2) for x in (k, v))
        scores = jnp.einsum("btnh,bsnh->bnts", q, k) / 4
        shares = jax.nn.softmax(scores if mask is None else jnp.where(mask, scores, -jnp.inf), axis=-1)
        return jnp.einsum("bnts,bsnh->btnh", shares, v)

    def ours(q, k, v):
        return attention(q, k, v, causal=masked, kv_valid_BS=valid if masked else None)

    np.testing.assert_allclose(ours(q, k, v), formula(q, k, v), atol=2e-6)
    got, wanted = (jax.grad(lambda *x, f=f: (f(*x) ** 2).sum(), (0, 1, 2))(q, k, v) for f in (ours, formula))
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
