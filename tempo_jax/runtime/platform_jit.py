"""`jax.jit` with compiler options that depend on the platform."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tempo_jax.models.kernels.attention import platform

# XLA multiplies matrices on a CPU by YNNPACK. Without it, by its own runtime, which calls oneDNN: a fifth
# faster for the large matmuls of prefill and of the vision tower (docs/results/optimization-log.md).
ONEDNN_MATMULS = {"xla_cpu_experimental_ynn_fusion_type": ""}


class PlatformJit:
    """A jitted function that a CPU runs with compiler options of its own where its arguments are float32.

    YNNPACK has kernels for bfloat16, which XLA's runtime has not. Other attributes are jax.jit's.
    """

    def __init__(self, function: Callable, cpu_options: dict[str, Any], **kwargs: Any):
        self._cpu_options, self._kwargs = cpu_options, kwargs
        self._function = function
        self._jitted = jax.jit(function, **kwargs)
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._chosen(args)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jitted, name)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """As that of jax.jit."""
        return self._chosen(args).lower(*args, **kwargs)

    def clear_cache(self) -> None:
        """Drops all compiled programs of the function."""
        self._jitted.clear_cache()
        self._on_cpu.clear_cache()

    def _cache_size(self) -> int:
        sizes = [self._jitted._cache_size()]
        return sum(sizes if self._on_cpu is self._jitted else [*sizes, self._on_cpu._cache_size()])

    def _chosen(self, args: tuple) -> Any:
        """The jitted function for the platform that is traced for, and the arguments' dtype.

        Inside another traced function the options are that one's: JAX takes them at the top level only.
        """
        if platform() != "cpu" or any(map(_is_traced, jax.tree.leaves(args))):
            return self._jitted
        if any(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(args[:1])):
            return self._jitted
        return self._on_cpu

    @functools.cached_property
    def _on_cpu(self) -> Any:
        if not _are_known(tuple(self._cpu_options.items())):
            return self._jitted
        return jax.jit(self._function, compiler_options=self._cpu_options, **self._kwargs)


def platform_jit(*, cpu_options: dict[str, Any] = ONEDNN_MATMULS, **kwargs: Any) -> Callable:
    """A decorator: `jax.jit` with these keyword arguments, and `cpu_options` as compiler options on a CPU."""
    return lambda function: PlatformJit(function, cpu_options, **kwargs)


def _is_traced(x: Any) -> bool:
    return isinstance(x, jax.core.Tracer)


@functools.cache
def _are_known(options: tuple[tuple[str, Any], ...]) -> bool:
    """Whether this version of XLA has the options, which are experimental."""
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError:
        return False
    return True
