"""Batches for the LLM alone: conversations in words, in the very prompt that Tempo uses."""

from collections.abc import Sequence

from tempo_jax.data.collate import Sample, Shape, side_by_side
from tempo_jax.models.config import PADDING_ID, DecoderConfig
from tempo_jax.prompts import IGNORE, Tokenizer
from tempo_jax.training.loss_llm import Batch


def collate(samples: Sequence[Sample], tokenizer: Tokenizer, config: DecoderConfig, shape: Shape) -> Batch:
    """One batch; frames are not looked at. Raises TooLong when the samples do not fit `shape`."""
    del config  # a decoder takes any conversation
    prompts = [tokenizer.training_prompt(sample.conversation) for sample in samples]
    return Batch(*side_by_side(prompts, (PADDING_ID, IGNORE), shape))
