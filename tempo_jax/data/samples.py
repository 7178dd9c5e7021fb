"""A prepared sample, and what the tasks share for laying samples out in batches. Host side, numpy."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tempo_jax.data.batch_packing import BatchShape, first_fit_decreasing
from tempo_jax.prompts import IGNORE, IMAGE_PLACEHOLDER, Tokenizer, inference_query, training_query
from tempo_jax.video import Segment, segments

MARKS = ("<image>", "<video>")  # marks of a turn that shows a video or an image


@dataclasses.dataclass(frozen=True)
class Sample:
    """A conversation about frames that have the model's frame size.

    Attributes:
      frames: uint8 [T, H, W, 3], or an object of that shape whose items are decoded on access.
      real_fps: Sampling rate of the frames; None for an image, which has one frame.
      conversation: LLaVA turns {"from", "value"}; the first one has <image> in front.
      start_seconds: Time of the first frame.
      seconds: float64 [T], times of frames that are not evenly spaced.
      pictures: Whether the frames are several images, which stand in for a video.
      inference_prompt: Whether the compressor gets its inference prompt (the system prompt that asks for Yes
        or No, the bare question) and not that of training (docs/reference/tempo.md#compressor-prompts). A
        small model trained from scratch knows only prompts that it was trained on.
      compressor_query: The compressor's question, where it is not that of the conversation; with
        `inference_prompt` only.
    """

    frames: np.ndarray
    real_fps: float | None
    conversation: Sequence[dict]
    start_seconds: float = 0.0
    seconds: np.ndarray | None = None
    pictures: bool = False
    inference_prompt: bool = False
    compressor_query: str = ""

    def segments(self, segment_frames: int) -> list[Segment]:
        """Returns the segments of the video with their times; none for an image."""
        if not self.real_fps:
            return []
        times = {"seconds": self.seconds, "start_seconds": self.start_seconds}
        return segments(len(self.frames), self.real_fps, segment_frames, **times)

    @property
    def query(self) -> str:
        """The question of the compressor."""
        if not self.inference_prompt:
            return training_query(self.conversation)
        return self.compressor_query or inference_query(self.conversation)


class SampleTooLong(ValueError):
    """A sample does not fit the shape of the batch."""


def check_capacity(*needs: tuple[str, int, int]) -> None:
    """Raises SampleTooLong for the first (name, needed, available) that does not fit."""
    for name, needed, available in needs:
        if needed > available:
            raise SampleTooLong(f"{needed} {name} do not fit a batch of {available}")


def is_text_only(ids: np.ndarray) -> bool:
    """Returns whether a training prompt has no placeholder of a visual block."""
    return not (ids == IMAGE_PLACEHOLDER).any()


def llm_tokens(ids: np.ndarray, times: Sequence[Segment], tokenizer: Tokenizer, memory_tokens: int) -> int:
    """Counts the LLM tokens of a conversation in Tempo: text, time tags and memory tokens.

    Args:
      ids: Token ids of the conversation, of `Tokenizer.training_prompt`.
      times: Segments of its video; none for an image.
      tokenizer: The tokenizer of `ids`.
      memory_tokens: Memory tokens of a segment or an image.

    Raises:
      ValueError: There is more than one visual mark.
    """
    if is_text_only(ids):
        return len(ids)
    if (marks := int((ids == IMAGE_PLACEHOLDER).sum())) != 1:
        raise ValueError(f"{marks} <image> marks in a conversation, not one or none")
    prompt = len(ids) - 1  # the mark gives way to memory tokens
    tags = sum(len(tokenizer.tag_ids(time.tag_seconds)) for time in times)
    return prompt + tags + memory_tokens * (len(times) or 1)


def pack_sequences(
    texts: Sequence[Sequence], fills: tuple[int, ...], shape: BatchShape
) -> tuple[np.ndarray, ...]:
    """Packs conversations into sequences; no label is predicted from another conversation.

    Args:
      texts: The columns of each conversation, of equal length, the labels last.
      fills: Padding value of each column.
      shape: Number and length of the sequences.

    Returns:
      int32 [B, L] for each column, and for the index of the conversation in its sequence, from 1.

    Raises:
      SampleTooLong: The conversations do not fit.
    """
    lengths = [len(columns[0]) for columns in texts]
    check_capacity(("tokens", max(lengths), shape.sequence_length))
    rows = first_fit_decreasing(lengths, shape.sequences, shape.sequence_length)
    if rows is None:
        raise SampleTooLong(
            f"{len(texts)} conversations of {sum(lengths)} tokens do not fit {shape.sequences} rows of "
            f"{shape.sequence_length}"
        )
    tables = [np.full((shape.sequences, shape.sequence_length), fill, np.int32) for fill in (*fills, 0)]
    used, numbers = [0] * shape.sequences, [0] * shape.sequences
    for columns, length, row in zip(texts, lengths, rows, strict=True):
        start, numbers[row] = used[row], numbers[row] + 1
        for table, values in zip(tables, (*columns, [numbers[row]] * length), strict=True):
            table[row, start : start + length] = values
        if start:
            tables[-2][row, start] = IGNORE
        used[row] += length
    return tuple(tables)
