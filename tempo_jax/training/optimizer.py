"""AdamW or Muon with warmup, cosine decay, global-norm clipping and a learning rate per parameter group."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from tempo_jax.training.param_groups import group_of


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Settings of the optimizer.

    Attributes:
      learning_rates: Peak learning rate of each group (`param_groups.GROUPS`); 0 or absent freezes the group.
      steps: Number of steps of the schedule.
      kind: A name in KINDS. "muon" orthogonalizes the momentum of each layer's matrices and scales it to
        MUON_RMS; other parameters use Adam with Nesterov momentum, without decay (optax.contrib).
      warmup_ratio: Fraction of the steps with a rising rate; the default is that of the reference recipes.
      weight_decay: Decoupled decay of matrices.
      clip_norm: Bound on the global gradient norm.
      b1: Decay of the first moment.
      b2: Decay of the second moment.
      final_lr_fraction: Rate at the last step, as a fraction of the peak.
    """

    learning_rates: Mapping[str, float]
    steps: int
    kind: str = "adamw"
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.999
    final_lr_fraction: float = 0.0


def schedule(config: OptimizerConfig, peak: float) -> optax.Schedule:
    """Returns a linear warmup from 0 and a cosine decay to final_lr_fraction x peak at the last step."""
    warmup = max(1, round(config.warmup_ratio * config.steps))
    return optax.warmup_cosine_decay_schedule(
        0.0, peak, warmup, max(config.steps, warmup + 1), peak * config.final_lr_fraction
    )


def make_optimizer(config: OptimizerConfig, paths: Iterable[str]) -> optax.GradientTransformation:
    """Returns the gradient transformation for a flat dict of trainable parameters with these paths.

    The clipped norm is that of all groups together. Optimizer state is float32.
    """
    labels = {path: group_of(path) for path in paths}
    update = KINDS[config.kind]
    groups = {
        name: update(config, schedule(config, config.learning_rates[name]))
        for name in sorted(set(labels.values()))
    }
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.partition(groups, labels))


# Root mean square of a matrix's update, as a fraction of the learning rate.
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
    """Returns the input and output axes of each layer's matrices, and None for other parameters.

    Layers are stacked along the first axis; each is orthogonalized separately.
    """

    def axes(path, value):
        name = jax.tree_util.keystr(path)
        in_layer = "layers/" in name or "blocks/" in name
        is_matrix = in_layer and name.rstrip("']").endswith("kernel")
        return contrib.MuonDimensionNumbers(value.ndim - 2, value.ndim - 1) if is_matrix else None

    return jax.tree_util.tree_map_with_path(axes, params)


def _decay_mask(params):
    """Masks weight decay to matrices; norm scales and biases are recognized by name."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not jax.tree_util.keystr(path).rstrip("']").endswith(("scale", "bias")), params
    )
