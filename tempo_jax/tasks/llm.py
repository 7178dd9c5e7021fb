"""Task llm: trains the LLM alone on text conversations, for a model without a published LLM.

Next-token cross-entropy over conversations in the prompt that Tempo uses.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tempo_jax.data.batch_packing import BatchShape, SampleSize
from tempo_jax.data.samples import Sample, is_text_only, pack_sequences
from tempo_jax.models.config import PADDING_ID, DecoderConfig
from tempo_jax.models.decoder import Decoder
from tempo_jax.prompts import IGNORE, Tokenizer
from tempo_jax.tasks import flops
from tempo_jax.tasks.base import Task, TokenCounts, int32, labeled_positions
from tempo_jax.tasks.losses import Loss, cross_entropy, positions_in

NUM_REMAT_STACKS = 1


class Batch(NamedTuple):
    """B sequences of packed conversations; static shapes, padded; int32."""

    token_ids_BL: jax.Array
    labels_BL: jax.Array  # of the same position, not shifted; IGNORE is masked
    conversation_BL: jax.Array  # index of the conversation in its sequence, from 1; 0 on padding


def sample_size(sample: Sample, tokenizer: Tokenizer, config: DecoderConfig) -> SampleSize:
    """Returns the size of a text conversation, as `collate` lays it out."""
    ids, _ = tokenizer.training_prompt(sample.conversation)
    if not is_text_only(ids):
        raise ValueError("an <image> mark: the task llm takes conversations in words")
    return SampleSize(0, 0, 0, len(ids))


def collate(
    samples: Sequence[Sample], tokenizer: Tokenizer, config: DecoderConfig, shape: BatchShape
) -> Batch:
    """Makes one batch; raises SampleTooLong when the samples do not fit `shape`."""
    del config  # a decoder takes any conversation
    prompts = [tokenizer.training_prompt(sample.conversation) for sample in samples]
    return Batch(*pack_sequences(prompts, (PADDING_ID, IGNORE), shape))


def loss(model: Decoder, batch: Batch, *, remat: bool | str = True) -> Loss:
    """Returns the summed loss of the batch."""
    x = model.embed(batch.token_ids_BL)
    conversation = batch.conversation_BL
    hidden = model(x, positions_in(conversation), segment_ids_BL=conversation, remat=remat)
    labels = jnp.pad(batch.labels_BL[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORE)
    return cross_entropy(model.logits, hidden, labels)


def forward_flops(config: DecoderConfig, batch: Batch) -> Iterator[flops.ModuleFlops]:
    micro, rows, length = batch.token_ids_BL.shape
    yield flops.ModuleFlops("llm", *flops.decoder(config, micro * rows, length, batch.labels_BL))


def counts(batch: Batch, memory_tokens: int) -> TokenCounts:
    """Counts the tokens of a host batch."""
    return TokenCounts(labeled_positions(batch.labels_BL), 0)


def abstract_batch(model, shape: BatchShape, frames: int, micro: int, shards: int):
    texts = (micro, shards * shape.sequences, shape.sequence_length)
    return Batch(*(int32(*texts) for _ in Batch._fields))


TASK = Task(
    name="llm",
    kind="qwen3",
    kinds=("text",),
    batch=Batch,
    num_remat_stacks=NUM_REMAT_STACKS,
    sample_size=sample_size,
    collate=collate,
    loss=loss,
    flops=forward_flops,
    counts=counts,
    abstract_batch=abstract_batch,
)
