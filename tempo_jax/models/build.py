"""Builds models from configs and parameter trees, and back."""

from typing import Any

import jax
from flax import nnx

from tempo_jax.models import stacks
from tempo_jax.models.config import XCompConfig
from tempo_jax.models.tempo import MODELS
from tempo_jax.models.xcomp import XComp
from tempo_jax.utils.tree import flatten

_MODELS = {**MODELS, XCompConfig: XComp}


def init(config: Any, seed: int = 0, *, stacked: bool = True) -> nnx.Module:
    """Returns a model with random float32 weights."""
    return _MODELS[type(config)](config, rngs=nnx.Rngs(seed), stacked=stacked)


def parameters(model: nnx.Module) -> dict:
    """Returns the model's arrays as a nested dict, as in native checkpoints."""
    return nnx.to_pure_dict(nnx.state(model))


def shapes(config: Any, *, stacked: bool = True) -> dict:
    """Returns a model's nested dict of jax.ShapeDtypeStruct; nothing is allocated."""
    return nnx.to_pure_dict(nnx.state(_abstract(config, stacked=stacked)))


def build(config: Any, params: dict) -> nnx.Module:
    """Returns a model with the arrays of a parameter tree, whose layers are stacked or a list as the tree's.

    Raises:
      ValueError: Paths or shapes of the tree differ from the config's; it names the first ones.
    """
    graph, state = nnx.split(_abstract(config, stacked=stacks.has_stacks(flatten(params))))
    expected, actual = flatten(nnx.to_pure_dict(state)), flatten(params)
    paths = expected.keys() | actual.keys()
    mismatched = [p for p in paths if _shape(expected.get(p)) != _shape(actual.get(p))]
    if mismatched:
        raise ValueError(f"parameters do not fit the model: {', '.join(sorted(mismatched)[:5])}")
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)


def _abstract(config: Any, *, stacked: bool) -> nnx.Module:
    """A model of shapes; one layer of each stack is traced, without random numbers."""
    model = nnx.eval_shape(lambda: _MODELS[type(config)](config, rngs=None, stacked=True))
    if not stacked:
        _separate_layers(model)
    return model


def _separate_layers(model: nnx.Module) -> None:
    """Replaces the stacked layers of an abstract model by lists, as `init(stacked=False)` makes them."""
    holders = [(module, name) for _, module in nnx.iter_modules(model) for name in stacks.STACKS]
    for module, name in holders:
        layers = getattr(module, name, None)
        if layers is None or isinstance(layers, nnx.List | nnx.Dict):
            continue
        graph, state = nnx.split(layers)
        count = jax.tree.leaves(state)[0].shape[0]
        setattr(module, name, nnx.List([nnx.merge(graph, _without_layers(state)) for _ in range(count)]))


def _without_layers(state: nnx.State) -> nnx.State:
    """A state of its own for one layer."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), state)


def _shape(leaf):
    return None if leaf is None else tuple(leaf.shape)
