"""Batches in which each memory token has a word to say: the answer's note of its segment, again and again."""

import re
from collections.abc import Sequence

import numpy as np

from tempo_jax.data import collate as tempo
from tempo_jax.data.collate import Sample, Shape
from tempo_jax.models.config import TempoConfig
from tempo_jax.prompts import IGNORE, Tokenizer
from tempo_jax.training.loss import Batch

TAG = re.compile(r"<[\d.]+ seconds>")


def collate(samples: Sequence[Sample], tokenizer: Tokenizer, config: TempoConfig, shape: Shape) -> Batch:
    """As collate.collate, but with labels at memory tokens and nowhere else.

    The last turn of a conversation has a note for each segment, after its time tag. A note is repeated until
    every slot has a word, so that whatever number of them is kept says it. ValueError where notes and
    segments do not agree.
    """
    batch = tempo.collate(samples, tokenizer, config, shape)
    notes = [note for sample in samples for note in TAG.split(sample.conversation[-1]["value"])[1:]]
    memory, index = config.memory_tokens, batch.memory_index_BL
    if index.max() + 1 != memory * len(notes):
        raise ValueError(f"{len(notes)} notes for {(index.max() + 1) // memory} segments")
    words = [np.resize(tokenizer.encode(note), memory) for note in notes]
    labels = np.concatenate([*words, [IGNORE]]).astype(np.int32)
    return batch._replace(labels_BL=labels[index])
