"""Batches for the small VLM alone: a conversation about one segment, in the compressor's own prompt form.

<|im_start|>system … <|im_end|> | user: video, question <|im_end|> | assistant: answer <|im_end|> | …
so that what it learns holds where the compressor asks (facts/tempo.md §1.4, §3.1).
"""

from collections.abc import Sequence

import numpy as np

from tempo_jax.data.collate import Sample, Shape, check_fits
from tempo_jax.models.config import Qwen3VLConfig
from tempo_jax.models.qwen3_vl import Rows
from tempo_jax.models.vision import grid_of, output_tokens
from tempo_jax.prompts import IGNORE, Tokenizer, pad_rows
from tempo_jax.training.loss_svlm import Batch


def collate(samples: Sequence[Sample], tokenizer: Tokenizer, config: Qwen3VLConfig, shape: Shape) -> Batch:
    """One batch of frames of one size. Raises TooLong when the samples do not fit `shape`.

    A sample's conversation: optionally a turn from "system", then "human" and "gpt" in turn; what the
    assistant says is learned, with the end of its turn. A sample has at most a segment's frames.
    """
    vision = config.vision
    grid = grid_of(*samples[0].frames.shape[1:3], vision)
    tokens, merge = output_tokens(grid, vision), vision.spatial_merge_size
    rows, labels = zip(*(conversation_row(sample, tokenizer, tokens) for sample in samples), strict=True)
    check_fits(
        ("segments", len(rows), shape.pool), ("compressor tokens", max(map(len, rows)), shape.row_length)
    )
    padding = shape.pool - len(rows)
    merged_grid = (grid[0] // merge, grid[1] // merge)
    table = pad_rows([*rows, *[rows[-1]] * padding], shape.row_length, merged_grid, tokenizer.ids)
    labels_PL = np.full((shape.pool, shape.row_length), IGNORE, np.int32)
    for row, learned in zip(labels_PL, labels):
        row[: len(learned)] = learned
    frames = _same_count([sample.frames for sample in samples])
    return Batch(
        frames_PFHWC=np.stack([*frames, *[frames[-1]] * padding]),
        rows=Rows(table.token_ids_SL, table.visual_index_SL, table.positions_3SL),
        labels_PL=labels_PL,
    )


def _same_count(clips: list[np.ndarray]) -> list[np.ndarray]:
    """Shorter clips repeat their last frame; their rows do not point at what comes of it."""
    count = max(map(len, clips))
    return [np.concatenate([clip[:], np.repeat(clip[-1:], count - len(clip), axis=0)]) for clip in clips]


def conversation_row(sample: Sample, tokenizer: Tokenizer, tokens: int) -> tuple[list[int], list[int]]:
    """Ids and labels of one conversation, equal lengths."""
    turns = list(sample.conversation)
    system = turns.pop(0)["value"] if turns[0]["from"] == "system" else None
    times = sample.segments(len(sample.frames))
    seconds = times[0].slice_seconds if times else None
    ids = tokenizer.video_row(system, seconds, tokens)
    labels = [IGNORE] * len(ids)
    for number, turn in enumerate(turns):
        if turn["from"] == "human":
            header = tokenizer.encode("user\n") if number else []
            piece = [*([tokenizer.ids.im_start, *header] if number else []), *tokenizer.encode(turn["value"])]
            piece += [tokenizer.ids.im_end, tokenizer.ids.newline, *tokenizer.assistant_header]
            ids, labels = ids + piece, labels + [IGNORE] * len(piece)
        else:
            piece = [*tokenizer.encode(turn["value"]), tokenizer.ids.im_end]
            ids, labels = [*ids, *piece, tokenizer.ids.newline], [*labels, *piece, IGNORE]
    return ids, labels
