"""Task llm: the LLM alone continues conversations in words, where none is published.

Next-token cross-entropy over conversations in the very prompt that Tempo uses.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tempo_jax.data.batch_packing import Need, Shape
from tempo_jax.data.samples import Sample, is_text_only, side_by_side
from tempo_jax.models.config import PADDING_ID, DecoderConfig
from tempo_jax.models.decoder import Decoder
from tempo_jax.prompts import IGNORE, Tokenizer
from tempo_jax.tasks import flops
from tempo_jax.tasks.base import Task, Work, int32, learned_positions
from tempo_jax.tasks.losses import Loss, cross_entropy, positions_in

STACKS = 1  # of layers


class Batch(NamedTuple):
    """B rows of conversations, one after the other; static shapes, padded; int32."""

    token_ids_BL: jax.Array
    labels_BL: jax.Array  # of the same position, not shifted; IGNORE costs nothing
    conversation_BL: jax.Array  # number within the row, from 1; 0 on padding


def sample_size(sample: Sample, tokenizer: Tokenizer, config: DecoderConfig) -> Need:
    """Of a conversation in words, as `collate` lays it out."""
    ids, _ = tokenizer.training_prompt(sample.conversation)
    if not is_text_only(ids):
        raise ValueError("an <image> mark: the task llm takes conversations in words")
    return Need(0, 0, 0, len(ids))


def collate(samples: Sequence[Sample], tokenizer: Tokenizer, config: DecoderConfig, shape: Shape) -> Batch:
    """One batch; frames are not looked at. Raises TooLong when the samples do not fit `shape`."""
    del config  # a decoder takes any conversation
    prompts = [tokenizer.training_prompt(sample.conversation) for sample in samples]
    return Batch(*side_by_side(prompts, (PADDING_ID, IGNORE), shape))


def loss(model: Decoder, batch: Batch, *, remat: bool | str = True) -> Loss:
    """The batch's summed loss."""
    x = model.embed(batch.token_ids_BL)
    conversation = batch.conversation_BL
    hidden = model(x, positions_in(conversation), segment_ids_BL=conversation, remat=remat)
    labels = jnp.pad(batch.labels_BL[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORE)
    return cross_entropy(model.logits, hidden, labels)


def forward_flops(config: DecoderConfig, batch: Batch) -> Iterator[flops.Part]:
    micro, rows, length = batch.token_ids_BL.shape
    yield flops.Part("llm", *flops.decoder(config, micro * rows, length, batch.labels_BL))


def counts(batch: Batch, memory_tokens: int) -> Work:
    """Of a host batch."""
    return Work(learned_positions(batch.labels_BL), 0)


def abstract_batch(model, shape: Shape, frames: int, micro: int, shards: int):
    texts = (micro, shards * shape.conversations, shape.length)
    return Batch(*(int32(*texts) for _ in Batch._fields))


TASK = Task(
    name="llm",
    kind="qwen3",
    kinds=("text",),
    batch=Batch,
    stacks=STACKS,
    sample_size=sample_size,
    collate=collate,
    loss=loss,
    flops=forward_flops,
    counts=counts,
    abstract_batch=abstract_batch,
)
