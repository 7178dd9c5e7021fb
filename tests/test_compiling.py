"""Programs compiled while the device is lent to others."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tempo_jax.runtime import prefetch
from tempo_jax.runtime.compiling import COMPILE_COUNTER, Precompiled


@pytest.fixture
def lent(monkeypatch):
    """How many programs were compiled each time that the device was lent."""
    found = []

    @contextlib.contextmanager
    def lend():
        before = COMPILE_COUNTER.count
        yield
        found.append(COMPILE_COUNTER.count - before)

    token = prefetch.while_waiting.set(lend)
    yield found
    prefetch.while_waiting.reset(token)


@Precompiled
@functools.partial(jax.jit, static_argnames=("times", "limits"), donate_argnames=("total",))
def added(module, total, step, *, times, limits=None, weight=None):
    return total + module["x"] * step * times * (1 if weight is None else weight)


def arguments(size):
    return {"x": jax.device_put(np.ones(size, np.float32))}, jax.device_put(np.zeros(size, np.float32))


def test_what_is_new_is_compiled_while_the_device_is_lent_and_never_twice(lent):
    added.clear_cache()
    module, total = arguments(3)
    for number in (1, 2, 3):  # whole numbers are traced: another one is no other program
        before = COMPILE_COUNTER.count
        total = added(module, total, number, times=2, limits=(1, 2))
        assert COMPILE_COUNTER.count - before == (number == 1)  # the call has taken what was compiled
    assert lent == [1]
    np.testing.assert_array_equal(total, np.full(3, 12, np.float32))
    added(*arguments(5), 1, times=2, limits=(1, 2))
    added(module, total, 1, times=3, limits=(1, 2))  # static
    assert lent == [1, 1, 1]
    added(*arguments(3), 1, times=3, limits=(1, 2), weight=jnp.float32(2))
    added(*arguments(3), 1, times=3, limits=(1, 2), weight=jnp.float32(3))
    assert lent == [1, 1, 1, 1]
    added.clear_cache()
    added(*arguments(5), 1, times=2, limits=(1, 2))
    assert lent == [1, 1, 1, 1, 1]


def test_who_cannot_lend_the_device_just_calls_it():
    module, total = arguments(7)
    np.testing.assert_array_equal(added(module, total, 2, times=2), np.full(7, 4, np.float32))
    assert added._cache_size() >= 1 and callable(added.lower)


def test_an_error_in_compiling_is_told_and_nothing_is_held(lent):
    module, _ = arguments(3)
    for _ in range(2):
        with pytest.raises(TypeError):
            added(module, jax.device_put(np.zeros(4, np.float32)), 1, times=2)
