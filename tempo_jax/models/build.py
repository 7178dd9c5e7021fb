"""Builds models from configs and parameter trees, and back."""

import re
from typing import Any

import jax
from flax import nnx

from tempo_jax.models.config import XCompConfig
from tempo_jax.models.tempo import MODELS
from tempo_jax.models.xcomp import XComp
from tempo_jax.utils.tree import flatten

_MODELS = {**MODELS, XCompConfig: XComp}

# Nodes whose leaves have a leading layer axis when layers are stacked.
STACKS = ("layers", "blocks", "deepstack")
_STACK = re.compile(r"(layers|blocks|deepstack)/(?!\d)")


def init(config: Any, seed: int = 0, *, stacked: bool = True) -> nnx.Module:
    """Returns a model with random float32 weights."""
    return _MODELS[type(config)](config, rngs=nnx.Rngs(seed), stacked=stacked)


def parameters(model: nnx.Module) -> dict:
    """Returns the model's arrays as a nested dict, as in native checkpoints."""
    return nnx.to_pure_dict(nnx.state(model))


def shapes(config: Any, *, stacked: bool = True) -> dict:
    """Returns a model's nested dict of jax.ShapeDtypeStruct; nothing is allocated."""
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: init(config, stacked=stacked))))


def build(config: Any, params: dict) -> nnx.Module:
    """Returns a model with the arrays of a parameter tree, whose layers are stacked or a list as the tree's.

    Raises:
      ValueError: Paths or shapes of the tree differ from the config's; it names the first ones.
    """
    stacked = not _is_unstacked(params)
    model = nnx.eval_shape(lambda: init(config, stacked=stacked))
    graph, state = nnx.split(model)
    expected, actual = flatten(nnx.to_pure_dict(state)), flatten(params)
    paths = expected.keys() | actual.keys()
    mismatched = [p for p in paths if _shape(expected.get(p)) != _shape(actual.get(p))]
    if mismatched:
        raise ValueError(f"parameters do not fit the model: {', '.join(sorted(mismatched)[:5])}")
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)


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


def _split_layers(stacked) -> list:
    sharding = getattr(stacked, "sharding", None)
    if isinstance(sharding, jax.sharding.NamedSharding):
        spec = jax.P(*sharding.spec[1:])
        out = [jax.sharding.NamedSharding(sharding.mesh, spec)] * stacked.shape[0]
        return jax.jit(lambda x: [x[i] for i in range(x.shape[0])], out_shardings=out)(stacked)
    return [stacked[i] for i in range(stacked.shape[0])]


def _is_unstacked(tree: dict) -> bool:
    return not any(_STACK.search(path) for path in flatten(tree))


def _shape(leaf):
    return None if leaf is None else tuple(leaf.shape)
