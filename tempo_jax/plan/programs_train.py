"""The train step of a config as shapes on a mesh: the very program that training jits."""

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

# Share of an LLM row's positions that have a label. An assumption: what is said in answers, against memory
# tokens, questions and padding.
LABEL_FRACTION = 1 / 8


def programs(config: ConfigDict, mesh: jax.sharding.Mesh) -> Iterator[Program]:
    """One program, "train step"; frozen weights are taken to be stored in config.dtype."""
    configs.check(config)
    model = _architecture(config)
    state, tx = run.abstract_state(config, model, mesh)
    batch = _batch(config, model)
    host = _with_labels(batch)
    yield Program(
        name="train step",
        function=run.jitted_step(config, model, tx, state, mesh),
        args=(state, _frozen(config, model, mesh), _placed(config, batch, mesh)),
        kwargs={},
        flops=TASKS[config.task].step_flops(model, host, dict(config.rates)),
        tokens=_tokens(batch),
        runs=1,
        label_fraction=_chunks_with_labels(model, host),
    )


def _architecture(config: ConfigDict) -> Any:
    """From the presets where the config names one: checkpoints of earlier stages need not be there."""
    if config.model:
        config = config.copy_and_resolve_references()
        config.init.update(dict.fromkeys(("checkpoint", "compressor", "llm"), ""))
    return start.architecture(config).config


def _frozen(config: ConfigDict, model: Any, mesh) -> dict[str, jax.ShapeDtypeStruct]:
    _, frozen = groups.split(build.shapes(model), dict(config.rates))
    return {path: abstract.parameter(path, x, jnp.dtype(config.dtype), mesh) for path, x in frozen.items()}


def _shape(config: ConfigDict, model: Any) -> tuple[Shape, int]:
    """Sizes of a micro-batch, the largest frames of those the config lists, and frames a segment."""
    batch = config.batch
    sizes = [tuple(size) for size in batch.sizes] or [_usual_size(model)]
    shape = Shape(batch.pool, batch.row_length, batch.conversations, batch.length, max(sizes, key=np.prod))
    if isinstance(model, XCompConfig):
        return shape, model.clip_frames
    return shape, (model.video if isinstance(model, TempoConfig) else VideoConfig()).segment_frames


def _usual_size(model: Any) -> tuple[int, int]:
    """Of frames where the config leaves it to the data: XComp's own, or a square of the least pixels."""
    if isinstance(model, XCompConfig):
        return model.vision.image_size, model.vision.image_size
    side = int(model.video.min_pixels**0.5) if isinstance(model, TempoConfig) else 384
    return side, side


def _batch(config: ConfigDict, model: Any) -> Any:
    """A global batch, as collating and `feed.Layout` make it."""
    shape, frames = _shape(config, model)
    return TASKS[config.task].abstract_batch(
        model, shape, frames, config.batch.micro_batches, config.batch.shards
    )


def _placed(config: ConfigDict, batch: Any, mesh) -> Any:
    def place(x, spec):
        names = ["batch" if part else "none" for part in (*spec, *[None] * (x.ndim - len(spec)))]
        where = jax.NamedSharding(mesh, sharding.partition_spec(names, x.shape, mesh))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    return jax.tree.map(place, batch, batch_specs(TASKS[config.task]))


def _with_labels(batch: Any) -> Any:
    """The batch with labels as numbers, LABELLED of them real, for counting FLOPs."""
    name = next((field for field in batch._fields if field in ("labels_BL", "labels_PL", "labels_BS")), None)
    if name is None:
        return batch
    labels = np.full(getattr(batch, name).shape, IGNORE, np.int32)
    labels[..., -max(1, int(labels.shape[-1] * LABEL_FRACTION)) :] = 0
    return batch._replace(**{name: labels})


def _chunks_with_labels(model: Any, host: Any) -> float:
    labels = next((x for x in jax.tree.leaves(host) if isinstance(x, np.ndarray)), None)
    if labels is None:
        return 1.0
    length = labels.shape[-1]
    if isinstance(model, XCompConfig):  # text; behind the last layer also what is left of the video
        left = token_compression.make_schedule(
            model.compression, model.llm.num_layers, model.frame_tokens
        ).tokens[-1]
        length += host.memory_index_BL.shape[-1] // model.frame_tokens * left
    chunk = min(losses.CHUNK, length)
    return -(-max(1, int(labels.shape[-1] * LABEL_FRACTION)) // chunk) / -(-length // chunk)


def _tokens(batch: Any) -> int:
    """Positions at the LLM's first layer, or of the small VLM where it is alone."""
    if isinstance(batch, xcomp.Batch):
        return math.prod(batch.text_BS.shape) + math.prod(batch.memory_index_BL.shape)
    ids = batch.token_ids_BL if hasattr(batch, "token_ids_BL") else batch.rows.token_ids_SL
    return math.prod(ids.shape)
