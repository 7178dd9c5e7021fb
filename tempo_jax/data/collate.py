"""From prepared samples to one static batch: prompts, index arrays and labels. Host side, numpy."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tempo_jax.data.shape import Shape, rows_of
from tempo_jax.models.config import PADDING_ID, TempoConfig
from tempo_jax.models.qwen3_vl import Rows
from tempo_jax.models.vision import grid_of, output_tokens
from tempo_jax.prompts import IGNORE, IMAGE_PLACEHOLDER, Tokenizer, human_turns, pad_rows, training_query
from tempo_jax.training.loss import Batch
from tempo_jax.video import Segment, segments


@dataclasses.dataclass(frozen=True)
class Sample:
    """A conversation about frames already at the model's size.

    pictures: whether the frames are several pictures, which stand in for a video.
    as_asked: the compressor gets the prompt it gets in inference (system prompt that asks for Yes or No,
    the bare question) and not the one of training (facts §1.8). A small model trained from nothing knows no
    prompt that it was not trained on; the published ones are trained without.
    asked: the question for the compressor, where it is not the conversation's; with as_asked only.
    """

    frames: np.ndarray  # uint8 [T, H, W, 3]; one frame and real_fps None: an image
    real_fps: float | None
    conversation: Sequence[dict]  # LLaVA turns {"from", "value"}; the first one has <image> in front
    start_seconds: float = 0.0  # of the first frame
    seconds: np.ndarray | None = None  # float64 [T], the frames' own times where they are not evenly spaced
    pictures: bool = False
    as_asked: bool = False
    asked: str = ""

    def segments(self, segment_frames: int) -> list[Segment]:
        """The video's segments with their times; none of an image."""
        if not self.real_fps:
            return []
        times = {"seconds": self.seconds, "start_seconds": self.start_seconds}
        return segments(len(self.frames), self.real_fps, segment_frames, **times)

    @property
    def query(self) -> str:
        """What the compressor is asked."""
        if not self.as_asked:
            return training_query(self.conversation)
        return self.asked or human_turns(self.conversation)


class TooLong(ValueError):
    """A sample does not fit the batch's shape."""


def check_fits(*needs: tuple[str, int, int]) -> None:
    """Raises TooLong for the first (what, needed, available) that does not fit."""
    for what, need, have in needs:
        if need > have:
            raise TooLong(f"{need} {what} do not fit a batch of {have}")


def collate(samples: Sequence[Sample], tokenizer: Tokenizer, config: TempoConfig, shape: Shape) -> Batch:
    """One batch; samples must have frames of one size. Raises TooLong when they do not fit `shape`.

    A conversation without <image> takes no segment. (The published trainer encodes a white picture for
    it and attaches nothing of it, facts §2.5: the same numbers.)
    """
    frames_per_segment, memory = config.video.segment_frames, config.memory_tokens
    vision = config.compressor.vision
    height, width = shape.size or samples[0].frames.shape[1:3]
    grid = grid_of(height, width, vision)
    tokens, merge = output_tokens(grid, vision), vision.spatial_merge_size
    frames, rows, texts = [], [], []
    for sample in samples:
        ids, labels = tokenizer.training_prompt(sample.conversation)
        if is_text_only(ids):
            texts.append((ids, np.full(len(ids), -1), labels))
            continue
        times = sample.segments(frames_per_segment)
        question = tokenizer.question_ids(sample.query)
        block_ids, block_memory = [], []
        for time in times or [None]:
            seconds = time and time.slice_seconds
            part = sample.frames if time is None else sample.frames[time.start : time.stop]
            start = len(rows) * memory
            tag = [] if time is None else tokenizer.tag_ids(time.tag_seconds)
            block_ids += [*tag, *[PADDING_ID] * memory]
            block_memory += [*[-1] * len(tag), *range(start, start + memory)]
            missing = frames_per_segment - len(part)
            frames.append(np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]))
            rows.append([*tokenizer.prefix_row(seconds, tokens, training=not sample.as_asked), *question])
        texts.append(_splice(ids, labels, block_ids, block_memory))
    if not rows:  # compiled programs want segments, be they nobody's
        frames.append(np.zeros((frames_per_segment, height, width, 3), np.uint8))
        rows.append(tokenizer.prefix_row(None, tokens, training=True))
    return _pad(frames, rows, texts, shape, memory, (grid[0] // merge, grid[1] // merge), tokenizer.ids)


def is_text_only(ids: np.ndarray) -> bool:
    """Whether a training prompt has no place for a visual block."""
    return not (ids == IMAGE_PLACEHOLDER).any()


def _splice(ids, labels, block_ids, block_memory):
    """The visual block in place of the placeholder: ids, memory index and labels, equal lengths."""
    (place,) = np.flatnonzero(ids == IMAGE_PLACEHOLDER)
    join = lambda x, block, tail: [*x[:place], *block, *tail]  # noqa: E731
    text = [-1] * len(ids)
    return (
        join(ids, block_ids, ids[place + 1 :]),
        join(text, block_memory, text[place + 1 :]),
        join(labels, [IGNORE] * len(block_ids), labels[place + 1 :]),
    )


def _pad(frames, rows, texts, shape: Shape, memory: int, merged_grid, ids) -> Batch:
    longest_row = max(map(len, rows)) + memory
    check_fits(("segments", len(rows), shape.pool), ("compressor tokens", longest_row, shape.row_length))
    frames += [frames[-1]] * (shape.pool - len(frames))
    lengths = [len(row) for row in rows]
    # Memory slots count on as text does (facts §1.4): laid out as text, embedded by the model.
    laid_out = [[*row, *[PADDING_ID] * memory] for row in rows]
    padding = shape.pool - len(rows)
    table = pad_rows([*laid_out, *[laid_out[-1]] * padding], shape.row_length, merged_grid, ids)
    token_ids, memory_index, labels, conversation = side_by_side(texts, (PADDING_ID, -1, IGNORE), shape)
    return Batch(
        frames_PFHWC=np.stack(frames),
        rows=Rows(table.token_ids_SL, table.visual_index_SL, table.positions_3SL),
        row_length_P=np.asarray([*lengths, *[lengths[-1]] * padding], np.int32),
        token_ids_BL=token_ids,
        memory_index_BL=memory_index,
        labels_BL=labels,
        conversation_BL=conversation,
    )


def side_by_side(texts: Sequence[Sequence], fills: tuple[int, ...], shape: Shape) -> tuple[np.ndarray, ...]:
    """Conversations laid one after the other into rows: a table [B, L] per column, then their numbers.

    texts: per conversation its columns, of one length, the labels last; fills: each column's padding.
    Nothing is predicted from another conversation: the first label of one that follows is IGNORE.
    TooLong where they do not fit.
    """
    lengths = [len(columns[0]) for columns in texts]
    check_fits(("tokens", max(lengths), shape.length))
    rows = rows_of(lengths, shape.conversations, shape.length)
    if rows is None:
        raise TooLong(
            f"{len(texts)} conversations of {sum(lengths)} tokens do not fit {shape.conversations} rows of "
            f"{shape.length}"
        )
    tables = [np.full((shape.conversations, shape.length), fill, np.int32) for fill in (*fills, 0)]
    used, numbers = [0] * shape.conversations, [0] * shape.conversations
    for columns, length, row in zip(texts, lengths, rows, strict=True):
        start, numbers[row] = used[row], numbers[row] + 1
        for table, values in zip(tables, (*columns, [numbers[row]] * length), strict=True):
            table[row, start : start + length] = values
        if start:
            tables[-2][row, start] = IGNORE
        used[row] += length
    return tuple(tables)
