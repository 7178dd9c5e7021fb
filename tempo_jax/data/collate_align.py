"""Batches in which each memory token has a word to say: the answer's note of its segment, again and again."""

import re
from collections.abc import Sequence

import numpy as np

from tempo_jax.data import collate as tempo
from tempo_jax.data.collate import Sample, Shape
from tempo_jax.data.minireel.segments import NOTHING
from tempo_jax.models.config import TempoConfig
from tempo_jax.prompts import IGNORE, Tokenizer
from tempo_jax.training.loss_align import Batch

TAG = re.compile(r"<[\d.]+ seconds>")


def collate(samples: Sequence[Sample], tokenizer: Tokenizer, config: TempoConfig, shape: Shape) -> Batch:
    """Segments as collate.collate lays them out, with what their memory tokens are to say.

    The last turn of a conversation has a note for each segment, after its time tag. A note is repeated until
    every slot has a word, so that whatever number of them is kept says it. ValueError where notes and
    segments do not agree.
    """
    batch = tempo.collate(samples, tokenizer, config, shape)
    notes = [note for sample in samples for note in TAG.split(sample.conversation[-1]["value"])[1:]]
    memory = config.memory_tokens
    segments = (batch.memory_index_BL.max() + 1) // memory
    if segments != len(notes):
        raise ValueError(f"{len(notes)} notes for {segments} segments")
    labels = np.full((shape.pool, memory), IGNORE, np.int32)
    relevant = np.full(shape.pool, IGNORE, np.int32)
    for segment, note in enumerate(notes):
        labels[segment] = np.resize(tokenizer.encode(note), memory)
        relevant[segment] = note != f" {NOTHING}"
    return Batch(batch.frames_PFHWC, batch.rows, batch.row_length_P, labels, relevant)
