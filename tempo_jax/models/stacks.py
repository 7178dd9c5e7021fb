"""Layers in parameter trees: stacked, with a leading layer axis (training, checkpoints), or one node each."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from tempo_jax.utils.tree import flatten

# Nodes whose leaves have a leading layer axis when layers are stacked.
STACKS = ("layers", "blocks", "deepstack")
_STACK = re.compile(rf"({'|'.join(STACKS)})/(?!\d)")

Read = Callable[[tuple[slice, ...], Any], np.ndarray]  # (index, dtype) -> that part of a stored array


def is_stacked(path: str) -> bool:
    """Whether the array at a path has a leading layer axis."""
    return _STACK.search(path) is not None


def has_stacks(paths: Iterable[str]) -> bool:
    return any(map(is_stacked, paths))


def layer_path(path: str, index: int) -> str:
    """The path of one layer of a stacked array."""
    return _STACK.sub(lambda match: f"{match[1]}/{index}/", path, count=1)


def place(path: str, leaf: jax.ShapeDtypeStruct, read: Read, *, per_layer: bool) -> dict[str, jax.Array]:
    """Puts a stored array on its devices.

    Layers are separated on the host, where they are views: on a CPU, JAX uses their memory as it is.

    Args:
      path: Its path in a stacked tree.
      leaf: Shape, dtype and sharding.
      read: Reads the part of the array that a device holds.
      per_layer: Whether a stacked array becomes one array per layer.

    Returns:
      The array, or those of its layers, by path.
    """
    separate = per_layer and is_stacked(path)
    parts: dict[tuple, np.ndarray] = {}  # devices that hold the same part share one reading

    def part(index: tuple[slice, ...]) -> np.ndarray:
        key = tuple((s.start, s.stop) for s in index)
        if key not in parts:
            parts[key] = read((slice(None), *index) if separate else index, leaf.dtype)
        return parts[key]

    if not separate:
        return {path: jax.make_array_from_callback(leaf.shape, leaf.sharding, part)}
    shape, sharding = leaf.shape[1:], _layer_sharding(leaf.sharding)
    return {
        layer_path(path, layer): jax.make_array_from_callback(
            shape, sharding, lambda index, layer=layer: part(index)[layer]
        )
        for layer in range(leaf.shape[0])
    }


def unstack_layers(params: dict) -> dict:
    """Replaces leading layer axes by one node per layer, for inference.

    It converts and frees one stacked array after the other, so that the extra memory is that of the largest
    one. Empties `params`.
    """
    out: dict = {}
    for key in list(params):
        node = params.pop(key)
        if key in STACKS and isinstance(node, dict) and not all(str(k).isdigit() for k in node):
            out[key] = _unstack_stack(node)
        else:
            out[key] = unstack_layers(node) if isinstance(node, dict) else node
    return out


def _unstack_stack(node: dict) -> dict:
    layers: dict[int, dict] = {}
    for path in list(flatten(node)):
        *parents, leaf = path.split("/")
        holder = node
        for parent in parents:
            holder = holder[parent]
        for index, array in enumerate(_split_layers(holder.pop(leaf))):
            target = layers.setdefault(index, {})
            for parent in parents:
                target = target.setdefault(parent, {})
            target[leaf] = array
    return layers


def _split_layers(stacked: jax.Array) -> list:
    if isinstance(stacked.sharding, jax.sharding.NamedSharding):
        out = [_layer_sharding(stacked.sharding)] * stacked.shape[0]
        return jax.jit(lambda x: [x[i] for i in range(x.shape[0])], out_shardings=out)(stacked)
    return [stacked[i] for i in range(stacked.shape[0])]


def _layer_sharding(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
    """The sharding of one layer of a stacked array."""
    if isinstance(sharding, jax.sharding.NamedSharding):
        return jax.sharding.NamedSharding(sharding.mesh, jax.P(*sharding.spec[1:]))
    return sharding
