"""A prepared sample, and what laying samples out in batches shares. Host side, numpy."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tempo_jax.data.batch_packing import Shape, rows_of
from tempo_jax.prompts import IGNORE, IMAGE_PLACEHOLDER, Tokenizer, inference_query, training_query
from tempo_jax.video import Segment, segments

MARKS = ("<image>", "<video>")  # in a turn that shows something


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
        return self.asked or inference_query(self.conversation)


class TooLong(ValueError):
    """A sample does not fit the batch's shape."""


def check_fits(*needs: tuple[str, int, int]) -> None:
    """Raises TooLong for the first (what, needed, available) that does not fit."""
    for what, need, have in needs:
        if need > have:
            raise TooLong(f"{need} {what} do not fit a batch of {have}")


def is_text_only(ids: np.ndarray) -> bool:
    """Whether a training prompt has no place for a visual block."""
    return not (ids == IMAGE_PLACEHOLDER).any()


def llm_tokens(ids: np.ndarray, times: Sequence[Segment], tokenizer: Tokenizer, memory_tokens: int) -> int:
    """Tokens of the LLM that a conversation takes in Tempo: its text, time tags and memory tokens.

    Args:
      ids: of the conversation, `Tokenizer.training_prompt`.
      times: segments of its video; none of an image.
      tokenizer: the one of `ids`.
      memory_tokens: of a segment or an image.

    Raises:
      ValueError: more than one place where something is shown.
    """
    if is_text_only(ids):
        return len(ids)
    if (marks := int((ids == IMAGE_PLACEHOLDER).sum())) != 1:
        raise ValueError(f"{marks} <image> marks in a conversation, not one or none")
    prompt = len(ids) - 1  # the mark gives way to memory tokens
    tags = sum(len(tokenizer.tag_ids(time.tag_seconds)) for time in times)
    return prompt + tags + memory_tokens * (len(times) or 1)


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
