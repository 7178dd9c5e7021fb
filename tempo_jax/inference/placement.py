"""Where arrays live: nothing to do on one device, named shardings on a mesh."""

import contextlib
from typing import Any

import jax
import numpy as np

from tempo_jax import sharding

SEGMENTS = sharding.APART["segments"]  # mesh axes the segments of a video spread over


class Placement:
    """Puts host arrays on the devices of a mesh (or on the default device) and sets the context."""

    def __init__(self, mesh: jax.sharding.Mesh | None, *, exact: bool):
        self.mesh = mesh
        self.exact = exact  # float32 means float32, also on accelerators that would rather not

    @property
    def segment_shards(self) -> int:
        """Over how many devices the segments of a video spread."""
        return 1 if self.mesh is None else self.mesh.size

    @contextlib.contextmanager
    def __call__(self):
        with contextlib.ExitStack() as stack:
            if self.mesh is not None:
                stack.enter_context(jax.set_mesh(self.mesh))
            # Splash attention in bfloat16 does not compile where the environment asks for more than it has.
            precision = "highest" if self.exact else "default"
            stack.enter_context(jax.default_matmul_precision(precision))
            yield

    def put(self, x: Any, axes: Any = None) -> Any:
        """A host array (or pytree of them) on the devices, axis 0 over mesh `axes`."""
        if self.mesh is None:
            return jax.tree.map(jax.device_put, x)  # jnp.asarray compiles a program for every shape

        def put(leaf: Any) -> jax.Array:
            spec = jax.P(axes) if np.ndim(leaf) else jax.P()  # a number lies everywhere
            return jax.device_put(np.asarray(leaf), jax.sharding.NamedSharding(self.mesh, spec))

        return jax.tree.map(put, x)
