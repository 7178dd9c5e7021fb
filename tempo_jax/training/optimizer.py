"""AdamW or Muon with warm-up, cosine decay, global-norm clipping and a learning rate per parameter group."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from tempo_jax.training.param_groups import group_of


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """rates: peak learning rate of each group (`groups.GROUPS`); 0 or absent freezes the group.

    kind: a name in KINDS. "muon" orthogonalises the momentum of matrices inside layers, each by itself, and
    scales it to MUON_SIZE; the rest moves by Adam with Nesterov's momentum, without decay (optax.contrib).
    """

    learning_rates: Mapping[str, float]
    steps: int
    kind: str = "adamw"
    warmup_ratio: float = 0.03  # share of the steps, the ancestors' value (facts §4.2)
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.999
    final_lr_fraction: float = 0.0  # of the peak, at the last step


def schedule(config: OptimizerConfig, peak: float) -> optax.Schedule:
    """Linear from 0 over the warm-up, then half a cosine to final_lr_fraction x peak at the last step."""
    warmup = max(1, round(config.warmup_ratio * config.steps))
    return optax.warmup_cosine_decay_schedule(
        0.0, peak, warmup, max(config.steps, warmup + 1), peak * config.final_lr_fraction
    )


def make_optimizer(config: OptimizerConfig, paths: Iterable[str]) -> optax.GradientTransformation:
    """The transformation for a flat dict of learning parameters with these paths.

    The norm that is clipped is that of all groups together. State is float32.
    """
    labels = {path: group_of(path) for path in paths}
    update = KINDS[config.kind]
    groups = {
        name: update(config, schedule(config, config.learning_rates[name]))
        for name in sorted(set(labels.values()))
    }
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.partition(groups, labels))


# Root mean square of a matrix's update, in shares of the rate.
MUON_RMS = 0.6


def _adamw(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    return optax.adamw(
        rate,
        b1=config.b1,
        b2=config.b2,
        weight_decay=config.weight_decay,
        mu_dtype=jnp.float32,
        mask=_decay_mask,
    )


def _muon(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    return contrib.muon(
        rate,
        weight_decay=config.weight_decay,
        mu_dtype=jnp.float32,
        adam_b1=config.b1,
        adam_b2=config.b2,
        muon_weight_dimension_numbers=_matrix_axes,
        consistent_rms=MUON_RMS,
    )


KINDS: dict[str, Callable[[OptimizerConfig, optax.Schedule], optax.GradientTransformation]] = {
    "adamw": _adamw,
    "muon": _muon,
}


def _matrix_axes(params):
    """Of each parameter the axes of inputs and outputs where it is a layer's matrix, else None.

    Layers are stacked: their axis comes first, each is orthogonalised by itself.
    """

    def axes(path, value):
        name = jax.tree_util.keystr(path)
        inside = "layers/" in name or "blocks/" in name
        matrix = inside and name.rstrip("']").endswith("kernel")
        return contrib.MuonDimensionNumbers(value.ndim - 2, value.ndim - 1) if matrix else None

    return jax.tree_util.tree_map_with_path(axes, params)


def _decay_mask(params):
    """Weight decay is for matrices: norms and biases are vectors (stacked: one more axis), by name."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not jax.tree_util.keystr(path).rstrip("']").endswith(("scale", "bias")), params
    )
