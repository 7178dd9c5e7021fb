"""Batches for XComp: a conversation about one video or image, in the published prompt (xcomp §1.8)."""

from collections.abc import Sequence

import numpy as np

from tempo_jax.data.collate import Sample, check_fits
from tempo_jax.data.shape import Shape
from tempo_jax.models.config import PADDING_ID, XCompConfig
from tempo_jax.prompts import IGNORE, IMAGE_PLACEHOLDER, Tokenizer
from tempo_jax.training.loss_xcomp import Batch
from tempo_jax.xcomp.prompts import time_message
from tempo_jax.xcomp.sampling import GRAIN, sample_indices


def is_image(sample: Sample) -> bool:
    return sample.real_fps is None


def frame_numbers(sample: Sample) -> np.ndarray:
    """The frames of a sample that are looked at: an image's own, or a multiple of 8.

    ValueError where there are none.
    """
    if not len(sample.frames):
        raise ValueError("no frames: XComp is tuned on samples with one video or image each")
    if is_image(sample):
        return np.arange(1)
    most = max(GRAIN, len(sample.frames))
    return sample_indices(len(sample.frames), sample.real_fps, sample.real_fps, GRAIN, most)


def text(sample: Sample, tokenizer: Tokenizer, frames: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Ids and labels of a sample's text, and how much of it stands before the video.

    A video's time message comes before the first turn's words, which start on a line of their own; asking
    has no such line break (xcomp §1.8). Raises ValueError unless the conversation has one mark.
    """
    message = "" if is_image(sample) else time_message(len(sample.frames) / sample.real_fps, frames) + " \n"
    first, *rest = sample.conversation
    words = first["value"].replace("<image>", "").replace("<video>", "").strip()
    turns = [{**first, "value": f"<image>\n{message}{words}"}, *rest]
    ids, labels = tokenizer.training_prompt(turns)
    marks = np.flatnonzero(ids == IMAGE_PLACEHOLDER)
    if len(marks) != 1:
        raise ValueError(f"{len(marks)} <image> marks in a conversation, not one")
    return np.delete(ids, marks), np.delete(labels, marks), int(marks[0])


def visual_room(pool: int, config: XCompConfig) -> int:
    """Visual tokens that a row may have: a video's whole pool, an image's in any case."""
    return max(pool * config.memory_tokens, config.frame_tokens)


def collate(samples: Sequence[Sample], tokenizer: Tokenizer, config: XCompConfig, shape: Shape) -> Batch:
    """One batch of frames of one size; raises TooLong when the samples do not fit `shape`.

    shape: pool counts clips, row_length a row's text tokens, conversations rows of one conversation each, and
    of as many images. A pool of 0 takes images alone.
    """
    check_fits(("conversations", len(samples), shape.conversations))
    per_clip, tokens = config.clip_frames, config.memory_tokens
    texts = np.full((shape.conversations, shape.row_length), PADDING_ID, np.int32)
    labels = np.full_like(texts, IGNORE)
    index = np.full((shape.conversations, visual_room(shape.pool, config)), -1, np.int32)
    lengths = np.zeros((3, shape.conversations), np.int32)  # before the video, frames, after it
    clips: list[np.ndarray] = []
    images = np.zeros((shape.conversations, *(shape.size or samples[0].frames.shape[1:3]), 3), np.uint8)
    for row, sample in enumerate(samples):
        numbers = frame_numbers(sample)
        ids, learned, prefix = text(sample, tokenizer, len(numbers))
        count = 0 if is_image(sample) else len(numbers) // per_clip
        check_fits(("clips", len(clips) + count, shape.pool), ("text tokens", len(ids), shape.row_length))
        texts[row, : len(ids)], labels[row, : len(ids)] = ids, learned
        index[row, : count * tokens] = len(clips) * tokens + np.arange(count * tokens)
        lengths[:, row] = prefix, len(numbers), len(ids) - prefix
        if is_image(sample):
            images[row] = sample.frames[0]
            continue
        frames = np.asarray(sample.frames)[numbers]
        clips += list(frames.reshape(count, per_clip, *frames.shape[1:]))
    nobodys = clips[-1] if clips else np.zeros((per_clip, *images.shape[1:]), np.uint8)
    clips += [nobodys] * (max(1, shape.pool) - len(clips))  # compiled programs want clips
    return Batch(np.stack(clips), images, index, texts, labels, *lengths)
