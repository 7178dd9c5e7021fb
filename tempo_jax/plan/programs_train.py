"""The train step of a config as an abstract program: the jitted step that training runs."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from tempo_jax import sharding
from tempo_jax.data.batch_packing import Shape
from tempo_jax.models import build
from tempo_jax.models.config import TempoConfig, VideoConfig, XCompConfig
from tempo_jax.plan import abstract
from tempo_jax.plan.abstract import Program
from tempo_jax.prompts import IGNORE
from tempo_jax.tasks import TASKS, losses, xcomp
from tempo_jax.training import config as configs
from tempo_jax.training import groups, run, start
from tempo_jax.training.step import batch_specs
from tempo_jax.xcomp import token_compression

# Assumed fraction of an LLM sequence's positions that have a label: answers, not memory tokens, questions,
# padding.
LABEL_FRACTION = 1 / 8


def programs(config: ConfigDict, mesh: jax.sharding.Mesh) -> Iterator[Program]:
    """Yields one program, "train step"; frozen weights are assumed to be stored in config.dtype."""
    configs.check(config)
    model = _architecture(config)
    state, tx = run.abstract_state(config, model, mesh)
    batch = _batch(config, model)
    labeled = _with_labels(batch)
    yield Program(
        name="train step",
        function=run.jitted_step(config, model, tx, state, mesh),
        args=(state, _frozen(config, model, mesh), _on_mesh(config, batch, mesh)),
        kwargs={},
        flops=TASKS[config.task].step_flops(model, labeled, dict(config.rates)),
        tokens=_tokens(batch),
        runs=1,
        label_fraction=_label_fraction(model, labeled),
    )


def _architecture(config: ConfigDict) -> Any:
    """From the presets where the config names one, so that checkpoints of earlier stages are not needed."""
    if config.model:
        config = config.copy_and_resolve_references()
        config.init.update(dict.fromkeys(("checkpoint", "compressor", "llm"), ""))
    return start.architecture(config).config


def _frozen(config: ConfigDict, model: Any, mesh) -> dict[str, jax.ShapeDtypeStruct]:
    _, frozen = groups.split(build.shapes(model), dict(config.rates))
    return {path: abstract.parameter(path, x, jnp.dtype(config.dtype), mesh) for path, x in frozen.items()}


def _shape(config: ConfigDict, model: Any) -> tuple[Shape, int]:
    """Sizes of a micro-batch, with the largest frames that the config lists, and frames per segment."""
    batch = config.batch
    sizes = [tuple(size) for size in batch.sizes] or [_default_frame_size(model)]
    shape = Shape(batch.pool, batch.row_length, batch.conversations, batch.length, max(sizes, key=np.prod))
    if isinstance(model, XCompConfig):
        return shape, model.clip_frames
    return shape, (model.video if isinstance(model, TempoConfig) else VideoConfig()).segment_frames


def _default_frame_size(model: Any) -> tuple[int, int]:
    """The frame size where the config does not fix it: XComp's own, or a square of the minimum pixels."""
    if isinstance(model, XCompConfig):
        return model.vision.image_size, model.vision.image_size
    side = int(model.video.min_pixels**0.5) if isinstance(model, TempoConfig) else 384
    return side, side


def _batch(config: ConfigDict, model: Any) -> Any:
    """A global batch, as the task collates it and `feed.Layout` shards it."""
    shape, frames = _shape(config, model)
    return TASKS[config.task].abstract_batch(
        model, shape, frames, config.batch.micro_batches, config.batch.shards
    )


def _on_mesh(config: ConfigDict, batch: Any, mesh) -> Any:
    def place(x, spec):
        names = ["batch" if part else "none" for part in (*spec, *[None] * (x.ndim - len(spec)))]
        spec = jax.NamedSharding(mesh, sharding.partition_spec(names, x.shape, mesh))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spec)

    return jax.tree.map(place, batch, batch_specs(TASKS[config.task]))


def _with_labels(batch: Any) -> Any:
    """The batch with concrete labels, a fraction LABEL_FRACTION of them real, for counting FLOPs."""
    name = next((field for field in batch._fields if field in ("labels_BL", "labels_PL", "labels_BS")), None)
    if name is None:
        return batch
    labels = np.full(getattr(batch, name).shape, IGNORE, np.int32)
    labels[..., -max(1, int(labels.shape[-1] * LABEL_FRACTION)) :] = 0
    return batch._replace(**{name: labels})


def _label_fraction(model: Any, batch: Any) -> float:
    """Fraction of the loss's label chunks that have any label."""
    labels = next((x for x in jax.tree.leaves(batch) if isinstance(x, np.ndarray)), None)
    if labels is None:
        return 1.0
    length = labels.shape[-1]
    if isinstance(model, XCompConfig):  # after the last layer, text and the remaining visual tokens
        remaining = token_compression.make_schedule(
            model.compression, model.llm.num_layers, model.frame_tokens
        ).layer_tokens[-1]
        length += batch.memory_index_BL.shape[-1] // model.frame_tokens * remaining
    chunk = min(losses.CHUNK, length)
    return -(-max(1, int(labels.shape[-1] * LABEL_FRACTION)) // chunk) / -(-length // chunk)


def _tokens(batch: Any) -> int:
    """Positions at the LLM's first layer, or of the compressor where it is trained alone."""
    if isinstance(batch, xcomp.Batch):
        return math.prod(batch.text_BS.shape) + math.prod(batch.memory_index_BL.shape)
    ids = batch.token_ids_BL if hasattr(batch, "token_ids_BL") else batch.rows.token_ids_SL
    return math.prod(ids.shape)
