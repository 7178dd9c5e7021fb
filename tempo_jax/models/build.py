"""From a config and a parameter tree to a model, and back."""

import re
from typing import Any

import jax
from flax import nnx

from tempo_jax.models.config import XCompConfig
from tempo_jax.models.tempo import MODELS
from tempo_jax.models.xcomp import XComp
from tempo_jax.utils.tree import flatten

_MODELS = {**MODELS, XCompConfig: XComp}

# Nodes whose leaves carry a leading layer axis when stacked.
STACKS = ("layers", "blocks", "deepstack")
_STACK = re.compile(r"(layers|blocks|deepstack)/(?!\d)")


def init(config: Any, seed: int = 0, *, stacked: bool = True) -> nnx.Module:
    """A model with random weights, float32."""
    return _MODELS[type(config)](config, rngs=nnx.Rngs(seed), stacked=stacked)


def parameters(model: nnx.Module) -> dict:
    """The model's arrays as a nested dict, as native checkpoints hold them."""
    return nnx.to_pure_dict(nnx.state(model))


def shapes(config: Any, *, stacked: bool = True) -> dict:
    """The nested dict of jax.ShapeDtypeStruct of a model; nothing is allocated."""
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: init(config, stacked=stacked))))


def build(config: Any, params: dict) -> nnx.Module:
    """A model around a parameter tree, stacked or with one node per layer as the tree is.

    Raises ValueError naming the first paths whose presence or shape differ from the config's.
    """
    stacked = not _is_unstacked(params)
    model = nnx.eval_shape(lambda: init(config, stacked=stacked))
    graph, state = nnx.split(model)
    want, have = flatten(nnx.to_pure_dict(state)), flatten(params)
    wrong = [p for p in want.keys() | have.keys() if _shape(want.get(p)) != _shape(have.get(p))]
    if wrong:
        raise ValueError(f"parameters do not fit the model: {', '.join(sorted(wrong)[:5])}")
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)


def unstack_layers(params: dict) -> dict:
    """One node per layer instead of a leading layer axis, for inference.

    Works one stacked array at a time and drops each as it goes, so that the memory needed beyond
    the model itself is that of its largest stacked array. Empties `params`.
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
        for index, part in enumerate(_split_layers(holder.pop(leaf))):
            target = layers.setdefault(index, {})
            for parent in parents:
                target = target.setdefault(parent, {})
            target[leaf] = part
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
