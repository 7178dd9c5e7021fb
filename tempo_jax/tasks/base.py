"""What a task is: how samples become batches, what is learned from them, and what that takes."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.data.batch_packing import Need
from tempo_jax.models.qwen3_vl import PromptBatch
from tempo_jax.prompts import IGNORE
from tempo_jax.tasks import flops
from tempo_jax.tasks.losses import Loss


class Work(NamedTuple):
    """What of a host batch is no padding."""

    tokens: int  # positions of the decoder that learns to answer
    frames: int


@dataclasses.dataclass(frozen=True)
class Task:
    """One thing that can be trained; each file of `tasks` makes one, and `tasks.TASKS` lists them.

    Attributes:
      name: in TASKS and in `config.task`.
      kind: of the model (models.config.KINDS).
      kinds: of the samples of a prepared set (records.KINDS) that can be trained on.
      batch: a NamedTuple whose leaves, but for M-RoPE positions, have segments or conversations first.
      stacks: stacks of layers, each with a rematerialization of its own (layers.parse_remat_policies).
      sample_size: (sample, tokenizer, config) -> what the sample takes of a batch, as `collate` lays it out.
      collate: (samples, tokenizer, config, shape) -> batch; raises samples.TooLong.
      loss: (model, batch, remat=) -> Loss, and shards= where conversations share a pool.
      flops: (config, batch) -> parts of the forward pass; leaves [micro-batches, rows, ...].
      counts: (host batch, memory tokens) -> Work.
      abstract_batch: (config, shape, frames, micro-batches, shards) -> the batch as shapes.
      clips_of: (frames, config) -> clips of the pool that a video of so many prepared frames takes; None
        where there are no length buckets.
    """

    name: str
    kind: str
    kinds: tuple[str, ...]
    batch: type
    stacks: int
    sample_size: Callable[..., Need]
    collate: Callable[..., Any]
    loss: Callable[..., Loss]
    flops: Callable[[Any, Any], Iterator[flops.Part]]
    counts: Callable[[Any, int], Work]
    abstract_batch: Callable[..., Any]
    clips_of: Callable[[int, Any], int] | None = None

    @property
    def pooled(self) -> bool:
        """Whether conversations point at segments or clips of a pool."""
        return "memory_index_BL" in self.batch._fields

    def step_flops(self, config: Any, batch: Any, rates: Mapping[str, float]) -> float:
        """FLOPs of one optimizer step. batch: arrays with leading axes [micro-batches, rows]."""
        return flops.of_step(self.flops(config, batch), rates)


def learned_positions(labels: np.ndarray) -> int:
    """Positions up to each row's last label, which ends its last turn."""
    learned = labels != IGNORE
    last = labels.shape[-1] - np.argmax(learned[..., ::-1], axis=-1)
    return int(np.where(learned.any(-1), last, 0).sum())


def counts_of_segments(batch: Any, labels: np.ndarray) -> Work:
    """Of a batch whose labels are a segment's own."""
    segments = int((labels != IGNORE).any(-1).sum())
    return Work(learned_positions(labels), segments * batch.frames_PFHWC.shape[2])


def int32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def frames_u8(lead: tuple[int, int], frames: int, size) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*lead, frames, *size, 3), jnp.uint8)


def prompt_rows(lead: tuple[int, int], length: int) -> PromptBatch:
    return PromptBatch(int32(*lead, length), int32(*lead, length), int32(lead[0], 3, lead[1], length))
