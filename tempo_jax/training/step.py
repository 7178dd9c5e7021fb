"""One optimiser step: accumulated gradients, clipping, update; not-finite steps are skipped."""

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
from tempo_jax.training.groups import group_of, join

Flat = dict[str, jax.Array]


class State(NamedTuple):
    """What changes from step to step; master weights and optimiser state are float32."""

    learning: Flat
    optimiser: Any
    step: jax.Array  # int32, updates asked for
    skipped: jax.Array  # int32, of them left out because loss or gradients were not finite


class Metrics(NamedTuple):
    loss: jax.Array  # mean nats per label
    tokens: jax.Array  # labels that counted
    gradient_norm: jax.Array  # before clipping
    finite: jax.Array  # bool
    group_norms: Flat  # the same of each learning group of parameters


def batch_specs(task: Task = TASKS["tempo"]) -> Any:
    """How a batch of micro-batches lies on a mesh: segments and conversations over data x fsdp."""
    spread = DEFAULT_RULES.batch
    row = P(None, spread)
    rows = PromptBatch(row, row, P(None, None, spread))
    return task.batch(**{name: rows if name == "rows" else row for name in task.batch._fields})


def initial(learning: Flat, optimiser: optax.GradientTransformation) -> State:
    return State(learning, optimiser.init(learning), jnp.int32(0), jnp.int32(0))


def make_step(
    config: Any,
    optimiser: optax.GradientTransformation,
    *,
    task: Task = TASKS["tempo"],
    dtype=jnp.bfloat16,
    remat: str = "full",
    shards: int = 1,
) -> Callable[[State, Flat, Any], tuple[State, Metrics]]:
    """The pure function (state, frozen, batch) -> (state, metrics); jit it and donate the state.

    Leaves of `batch` have a leading axis of micro-batches, whose gradients are summed before the one
    division by all labels: accumulation equals one big batch. dtype: of the computation. remat: what
    models.layers.parse_remat_policies takes for the task's stacks. shards: of which the batch was put
    together (embeddings.gather_rows).
    """
    summed = _summed(config, task, dtype, remat, shards)

    def step(state: State, frozen: Flat, batch: Any) -> tuple[State, Metrics]:
        def micro(carry, part):
            (total, tokens), grads = jax.value_and_grad(summed, has_aux=True)(state.learning, frozen, part)
            return jax.tree.map(jnp.add, carry, (total, tokens, grads)), None

        zeros = (jnp.float32(0), jnp.float32(0), jax.tree.map(jnp.zeros_like, state.learning))
        (total, tokens, grads), _ = jax.lax.scan(micro, zeros, batch)
        count = jnp.maximum(tokens, 1)
        grads = jax.tree.map(lambda g: g / count, grads)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(total)
        updates, moved = optimiser.update(grads, state.optimiser, state.learning)
        new = (optax.apply_updates(state.learning, updates), moved)
        # A step that is not finite leaves weights and optimiser as they were.
        learning, kept = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), new, (state.learning, state.optimiser)
        )
        skipped = state.skipped + (~finite).astype(jnp.int32)
        metrics = Metrics(total / count, tokens, norm, finite, group_norms(grads))
        return State(learning, kept, state.step + 1, skipped), metrics

    return step


def make_loss(
    config: Any, *, task: Task = TASKS["tempo"], dtype=jnp.bfloat16, shards: int = 1
) -> Callable[[Flat, Flat, Any], Loss]:
    """The pure function (learning, frozen, batch) -> summed loss and labels of a batch, without gradients."""
    summed = _summed(config, task, dtype, "none", shards)

    def measure(learning: Flat, frozen: Flat, batch: Any) -> Loss:
        def micro(carry, part):
            return jax.tree.map(jnp.add, carry, summed(learning, frozen, part)), None

        (total, tokens), _ = jax.lax.scan(micro, (jnp.float32(0), jnp.float32(0)), batch)
        return Loss(total, tokens)

    return measure


def _summed(config: Any, task: Task, dtype, remat: str, shards: int) -> Callable:
    """The loss of one micro-batch as (total, labels)."""
    options = {"remat": remat} | ({"shards": shards} if task.pooled else {})

    def summed(learning: Flat, frozen: Flat, batch: Any) -> tuple[jax.Array, jax.Array]:
        params = join(cast(learning, dtype), cast(frozen, dtype))
        result: Loss = task.loss(build.build(config, params), batch, **options)
        return result.total, result.tokens

    return summed


def group_norms(grads: Flat) -> Flat:
    """{group: norm} of flat gradients."""
    names = sorted({group_of(path) for path in grads})
    return {
        name: optax.tree.norm([g for path, g in sorted(grads.items()) if group_of(path) == name])
        for name in names
    }


def cast(flat: Flat, dtype) -> Flat:
    """The weights that are computed with."""
    return {path: x if path.endswith(FLOAT32_ALWAYS) else x.astype(dtype) for path, x in flat.items()}
