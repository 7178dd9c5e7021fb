"""Programs of ever new sizes do not stay."""

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.runtime.buckets import ProgramCache


def test_programs_of_old_sizes_go():
    @jax.jit
    def double(x):
        return 2 * x

    cache, held = ProgramCache((double,), max_sizes=3), []
    for size in range(1, 8):
        assert cache.use(size)
        assert not cache.use(size)
        np.testing.assert_array_equal(double(jnp.ones(size)), np.full(size, 2))
        held.append(double._cache_size())
    assert held == [1, 2, 3, 1, 2, 3, 1]
