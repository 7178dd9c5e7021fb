"""The model of a config, over the devices of this process."""

import math

import jax
from ml_collections import ConfigDict

import tempo_jax
from tempo_jax import sharding


def load(config: ConfigDict) -> "tempo_jax.Tempo":
    """Loads the checkpoint; segments of a video spread over this process's devices."""
    return tempo_jax.load(
        config.checkpoint,
        dtype=config.dtype or None,
        mesh=mesh(dict(config.mesh)),
        chunk_segments=config.chunk_segments,
        context_length=config.context_length,
    )


def mesh(sizes: dict[str, int]) -> jax.sharding.Mesh | None:
    """A mesh of this process's own devices, -1 taking what the other axes leave; None for one device."""
    devices = jax.local_devices()
    left = max(len(devices) // math.prod(max(size, 1) for size in sizes.values()), 1)
    sizes = {name: left if size == -1 else size for name, size in sizes.items()}
    if math.prod(sizes.values()) == 1:
        return None
    return sharding.make_mesh(**sizes, devices=devices)
