"""Puts arrays on devices: with named shardings on a mesh, or on the default device."""

import contextlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from tempo_jax import sharding

SEGMENT_AXES = sharding.ENCODER_RULES.batch  # mesh axes that segments and clips are split over


class Placement:
    """Puts host arrays on a mesh or the default device; calling it sets the mesh and matmul precision."""

    def __init__(self, mesh: jax.sharding.Mesh | None, *, exact: bool):
        self.mesh = mesh
        self.exact = exact  # whether float32 matmuls are exact on accelerators, too

    @property
    def segment_shards(self) -> int:
        """Number of devices that the segments of a video are split over."""
        return 1 if self.mesh is None else self.mesh.size

    @contextlib.contextmanager
    def __call__(self):
        with contextlib.ExitStack() as stack:
            if self.mesh is not None:
                stack.enter_context(jax.set_mesh(self.mesh))
            # Splash attention in bfloat16 does not compile where the environment asks for a higher precision.
            precision = "highest" if self.exact else "default"
            stack.enter_context(jax.default_matmul_precision(precision))
            yield

    def fetch(self, x: jax.Array) -> np.ndarray:
        """Returns an array's value on the host; all processes call it, as others may hold parts of it."""
        if x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        return multihost_utils.process_allgather(x, tiled=True)

    def put(self, x: Any, axes: Any = None) -> Any:
        """Puts a host array (or pytree of them) on the devices, axis 0 split over mesh `axes`.

        It is committed to them, as loaded parameters and so all results are: whether an argument is committed
        is part of a program's key.
        """
        sharding = self.sharding(axes)
        # jnp.asarray would compile a program per shape.
        return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf), sharding), x)

    def sharding(self, axes: Any = None) -> jax.sharding.Sharding:
        """Where `put` puts an array."""
        if self.mesh is None:
            return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.sharding.NamedSharding(self.mesh, jax.P() if axes is None else jax.P(axes))
