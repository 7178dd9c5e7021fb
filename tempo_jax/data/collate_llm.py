"""Batches for the LLM alone: conversations in words, in the very prompt that Tempo uses."""

from collections.abc import Sequence

import numpy as np

from tempo_jax.data.collate import Sample, Shape, check_fits
from tempo_jax.models.config import PADDING_ID, DecoderConfig
from tempo_jax.prompts import IGNORE, Tokenizer
from tempo_jax.training.loss_llm import Batch


def collate(samples: Sequence[Sample], tokenizer: Tokenizer, config: DecoderConfig, shape: Shape) -> Batch:
    """One batch; frames are not looked at. Raises TooLong when the samples do not fit `shape`."""
    del config  # a decoder takes any conversation
    prompts = [tokenizer.training_prompt(sample.conversation) for sample in samples]
    check_fits(
        ("conversations", len(prompts), shape.conversations),
        ("tokens", max(len(ids) for ids, _ in prompts), shape.length),
    )
    token_ids_BL = np.full((shape.conversations, shape.length), PADDING_ID, np.int32)
    labels_BL = np.full((shape.conversations, shape.length), IGNORE, np.int32)
    for row, (ids, labels) in enumerate(prompts):
        token_ids_BL[row, : len(ids)], labels_BL[row, : len(ids)] = ids, labels
    return Batch(token_ids_BL, labels_BL)
