"""The Task protocol: how samples become batches, the loss of a batch, and what both cost."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.data.batch_packing import SampleSize
from tempo_jax.models.qwen3_vl import PromptBatch
from tempo_jax.prompts import IGNORE
from tempo_jax.tasks import flops
from tempo_jax.tasks.losses import Loss


class TokenCounts(NamedTuple):
    """Tokens and frames of a host batch, without padding."""

    tokens: int  # positions of the decoder that is trained to answer
    frames: int


@dataclasses.dataclass(frozen=True)
class Task:
    """A training task; each file of `tasks` makes one, and `tasks.TASKS` lists them.

    Attributes:
      name: Its name in TASKS and in `config.task`.
      kind: Kind of the model (models.config.KINDS).
      kinds: Kinds of prepared samples (records.KINDS) that can be trained on.
      batch: A NamedTuple whose leaves, but for M-RoPE positions, have segments or sequences first.
      num_remat_stacks: Number of layer stacks, each with a policy of its own (layers.parse_remat_policies).
      sample_size: (sample, tokenizer, config) -> SampleSize, as `collate` lays the sample out.
      collate: (samples, tokenizer, config, shape) -> batch; raises samples.SampleTooLong.
      loss: (model, batch, remat=) -> Loss; also shards= where sequences share a segment buffer.
      flops: (config, batch) -> ModuleFlops of the forward pass; leaves [micro-batches, rows, ...].
      counts: (host batch, memory tokens) -> TokenCounts.
      abstract_batch: (config, shape, frames, micro-batches, shards) -> the batch as shapes.
      clips_of: (frames, config) -> clips of a video with that many prepared frames; None where there are no
        length buckets.
    """

    name: str
    kind: str
    kinds: tuple[str, ...]
    batch: type
    num_remat_stacks: int
    sample_size: Callable[..., SampleSize]
    collate: Callable[..., Any]
    loss: Callable[..., Loss]
    flops: Callable[[Any, Any], Iterator[flops.ModuleFlops]]
    counts: Callable[[Any, int], TokenCounts]
    abstract_batch: Callable[..., Any]
    clips_of: Callable[[int, Any], int] | None = None

    @property
    def has_segment_buffer(self) -> bool:
        """Whether sequences index into a buffer of segments or clips."""
        return "memory_index_BL" in self.batch._fields

    def step_flops(self, config: Any, batch: Any, learning_rates: Mapping[str, float]) -> float:
        """Returns the FLOPs of one optimizer step on a batch with leading axes [micro-batches, rows]."""
        return flops.train_step_flops(self.flops(config, batch), learning_rates)


def labeled_positions(labels: np.ndarray) -> int:
    """Counts positions up to the last label of each row, which ends its last turn."""
    is_labeled = labels != IGNORE
    end = labels.shape[-1] - np.argmax(is_labeled[..., ::-1], axis=-1)
    return int(np.where(is_labeled.any(-1), end, 0).sum())


def segment_token_counts(batch: Any, labels: np.ndarray) -> TokenCounts:
    """Counts tokens and frames of a batch with labels per segment."""
    segments = int((labels != IGNORE).any(-1).sum())
    return TokenCounts(labeled_positions(labels), segments * batch.frames_PFHWC.shape[2])


def int32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def frames_u8(lead: tuple[int, int], frames: int, size) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*lead, frames, *size, 3), jnp.uint8)


def prompt_rows(lead: tuple[int, int], length: int) -> PromptBatch:
    return PromptBatch(int32(*lead, length), int32(*lead, length), int32(lead[0], 3, lead[1], length))
