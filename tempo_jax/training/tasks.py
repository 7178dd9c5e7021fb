"""What can be trained: a table of tasks, each with its batch, its loss and its way to make batches."""

import dataclasses
from collections.abc import Callable
from typing import Any

from tempo_jax.data import collate, collate_align, collate_llm, collate_svlm, collate_xcomp
from tempo_jax.training import loss, loss_align, loss_llm, loss_svlm, loss_xcomp


@dataclasses.dataclass(frozen=True)
class Task:
    """`kind`: of the model (models.config.KINDS). `batch`: a NamedTuple whose leaves, but for the M-RoPE
    positions, have segments or conversations first. `collate`: (samples, tokenizer, config, shape) -> batch.
    `kinds`: of a prepared set's samples (records.KINDS), those that can be trained on.
    """

    kind: str
    batch: type
    loss: Callable[..., loss.Loss]  # (model, batch, remat=), and shards= of what has a pool
    collate: Callable[..., Any]
    kinds: tuple[str, ...]
    stacks: int  # of layers, each with a rematerialisation of its own (layers.remat_of_parts)

    @property
    def pooled(self) -> bool:
        """Whether conversations point at segments or clips of a pool."""
        return "memory_index_BL" in self.batch._fields


TASKS: dict[str, Task] = {
    # The whole system answers conversations about videos and images (stages 0 to 3).
    "tempo": Task("tempo", loss.Batch, loss.loss, collate.collate, ("image", "video", "text"), loss.STACKS),
    # Memory tokens say notes in the LLM's own embedding: the LLM is not run.
    "align": Task("tempo", loss_align.Batch, loss_align.loss, collate_align.collate, (), loss_align.STACKS),
    # The small VLM alone answers conversations about single segments: where none is published.
    "svlm": Task("qwen3-vl", loss_svlm.Batch, loss_svlm.loss, collate_svlm.collate, (), loss_svlm.STACKS),
    # The LLM alone continues conversations in words: where none is published.
    "llm": Task("qwen3", loss_llm.Batch, loss_llm.loss, collate_llm.collate, ("text",), loss_llm.STACKS),
    # XComp answers conversations about videos, compression in the LLM switched on (xcomp §4).
    "xcomp": Task(
        "xcomp",
        loss_xcomp.Batch,
        loss_xcomp.loss,
        collate_xcomp.collate,
        ("image", "video"),
        loss_xcomp.STACKS,
    ),
}
