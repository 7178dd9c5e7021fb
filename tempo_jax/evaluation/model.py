"""The model of a config, over the devices of this process."""

import jax
from ml_collections import ConfigDict

import tempo_jax
from tempo_jax import sharding
from tempo_jax.utils import command_line


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
    sizes = sharding.fill_axis_sizes(sizes, len(devices), "config.mesh.")
    made = sharding.make_mesh(**sizes, devices=devices)
    if note := sharding.unused_devices_note(made, len(devices), "config.mesh."):
        command_line.say(f"note: {note}")
    return made if made.size > 1 else None
