"""One optimizer step: gradient accumulation, clipping and update; non-finite steps are skipped."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from tempo_jax.checkpoint import FLOAT32_ALWAYS
from tempo_jax.models import build
from tempo_jax.models.qwen3_vl import PromptBatch
from tempo_jax.sharding import DEFAULT_RULES
from tempo_jax.tasks import TASKS
from tempo_jax.tasks.base import Task
from tempo_jax.tasks.losses import Loss
from tempo_jax.training.param_groups import group_of, merge

Flat = dict[str, jax.Array]


class State(NamedTuple):
    """The training state. Master weights and optimizer state are float32.

    Checkpoints know the fields by older names (`checkpoints.STORED_NAMES`).
    """

    trainable: Flat
    optimizer: Any
    step: jax.Array  # int32, steps taken, skipped ones included
    skipped: jax.Array  # int32, steps skipped because loss or gradients were non-finite


class Metrics(NamedTuple):
    loss: jax.Array  # mean negative log-likelihood per label, nats
    tokens: jax.Array  # number of labels
    gradient_norm: jax.Array  # before clipping
    is_finite: jax.Array  # bool
    group_norms: Flat  # gradient norm of each trainable parameter group


def batch_specs(task: Task = TASKS["tempo"]) -> Any:
    """Partition specs of a batch [micro-batches, rows, ...]: rows are sharded over data x fsdp."""
    axes = DEFAULT_RULES.batch
    row = P(None, axes)
    rows = PromptBatch(row, row, P(None, None, axes))
    return task.batch(**{name: rows if name == "rows" else row for name in task.batch._fields})


def init_state(trainable: Flat, optimizer: optax.GradientTransformation) -> State:
    return State(trainable, optimizer.init(trainable), jnp.int32(0), jnp.int32(0))


def make_train_step(
    config: Any,
    optimizer: optax.GradientTransformation,
    *,
    task: Task = TASKS["tempo"],
    dtype=jnp.bfloat16,
    remat: str = "full",
    shards: int = 1,
) -> Callable[[State, Flat, Any], tuple[State, Metrics]]:
    """Makes the pure function (state, frozen, batch) -> (state, metrics); jit it and donate the state.

    Leaves of `batch` have a leading axis of micro-batches. Their gradients are summed before one division by
    the number of labels, so accumulation equals one large batch.

    Args:
      config: The model's config.
      optimizer: Transformation of the gradients of the trainable parameters.
      task: What is trained.
      dtype: Dtype of the computation; master weights stay float32.
      remat: Rematerialization policies of the task's layer stacks (models.layers.parse_remat_policies).
      shards: Number of data shards that the batch was assembled from.

    Returns:
      The train step.
    """
    loss_fn = _make_loss_fn(config, task, dtype, remat, shards)

    def step(state: State, frozen: Flat, batch: Any) -> tuple[State, Metrics]:
        def micro(carry, micro_batch):
            (total, tokens), grads = jax.value_and_grad(loss_fn, has_aux=True)(
                state.trainable, frozen, micro_batch
            )
            return jax.tree.map(jnp.add, carry, (total, tokens, grads)), None

        zeros = (jnp.float32(0), jnp.float32(0), jax.tree.map(jnp.zeros_like, state.trainable))
        (total, tokens, grads), _ = jax.lax.scan(micro, zeros, batch)
        count = jnp.maximum(tokens, 1)
        grads = jax.tree.map(lambda g: g / count, grads)
        norm = optax.tree.norm(grads)
        is_finite = jnp.isfinite(norm) & jnp.isfinite(total)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.trainable)
        new = (optax.apply_updates(state.trainable, updates), optimizer_state)
        # A non-finite step leaves weights and optimizer state unchanged.
        trainable, optimizer_state = jax.tree.map(
            lambda new, old: jnp.where(is_finite, new, old), new, (state.trainable, state.optimizer)
        )
        skipped = state.skipped + (~is_finite).astype(jnp.int32)
        metrics = Metrics(total / count, tokens, norm, is_finite, group_norms(grads))
        return State(trainable, optimizer_state, state.step + 1, skipped), metrics

    return step


def make_loss(
    config: Any, *, task: Task = TASKS["tempo"], dtype=jnp.bfloat16, shards: int = 1
) -> Callable[[Flat, Flat, Any], Loss]:
    """Makes the pure function (trainable, frozen, batch) -> summed loss and label count."""
    loss_fn = _make_loss_fn(config, task, dtype, "none", shards)

    def measure(trainable: Flat, frozen: Flat, batch: Any) -> Loss:
        def micro(carry, part):
            return jax.tree.map(jnp.add, carry, loss_fn(trainable, frozen, part)), None

        (total, tokens), _ = jax.lax.scan(micro, (jnp.float32(0), jnp.float32(0)), batch)
        return Loss(total, tokens)

    return measure


def _make_loss_fn(config: Any, task: Task, dtype, remat: str, shards: int) -> Callable:
    """Makes the function from parameters and one micro-batch to (summed loss, label count)."""
    options = {"remat": remat} | ({"shards": shards} if task.has_segment_buffer else {})

    def loss_fn(trainable: Flat, frozen: Flat, batch: Any) -> tuple[jax.Array, jax.Array]:
        params = merge(cast(trainable, dtype), cast(frozen, dtype))
        result: Loss = task.loss(build.build(config, params), batch, **options)
        return result.total, result.tokens

    return loss_fn


def group_norms(grads: Flat) -> Flat:
    """Returns the gradient norm of each parameter group."""
    names = sorted({group_of(path) for path in grads})
    return {
        name: optax.tree.norm([g for path, g in sorted(grads.items()) if group_of(path) == name])
        for name in names
    }


def cast(flat: Flat, dtype) -> Flat:
    """Casts parameters to the dtype of the computation; a few stay float32."""
    return {path: x if path.endswith(FLOAT32_ALWAYS) else x.astype(dtype) for path, x in flat.items()}
