"""Batches for XComp: a conversation about one video or image, in the published prompt (xcomp §1.8)."""

from collections.abc import Sequence

import numpy as np

from tempo_jax.data.collate import Sample, check_fits
from tempo_jax.data.shape import Shape
from tempo_jax.models.config import PADDING_ID, XCompConfig
from tempo_jax.prompts import IGNORE, IMAGE_PLACEHOLDER, Tokenizer
from tempo_jax.training.loss_xcomp import Batch
from tempo_jax.xcomp.layout import GRAIN, sample_indices, time_message

MARKS = ("<image>", "<video>")


def is_image(sample: Sample) -> bool:
    return sample.real_fps is None


def frame_numbers(sample: Sample) -> np.ndarray:
    """The frames of a sample that are looked at: an image's own, or a multiple of 8.

    ValueError for what XComp is not tuned on, as published (xcomp §4): words alone and several pictures.
    """
    if not len(sample.frames):
        raise ValueError("no frames: XComp is tuned on samples with one video or image each")
    if sample.pictures:
        raise ValueError("several pictures: XComp is tuned on samples with one video or image each")
    if is_image(sample):
        if not any(marked(turn) for turn in sample.conversation):
            raise ValueError("words alone: XComp is tuned on samples with one video or image each")
        return np.arange(1)
    most = max(GRAIN, len(sample.frames))
    return sample_indices(len(sample.frames), sample.real_fps, sample.real_fps, GRAIN, most)


def clip_count(frames: int, config: XCompConfig) -> int:
    """The clips that a video of so many prepared frames takes of a pool; 0 for an image's one frame."""
    if frames == 1:
        return 0
    return max(GRAIN, frames // GRAIN * GRAIN) // config.clip_frames


def marked(turn: dict) -> bool:
    """Whether something is shown in a turn."""
    return turn["from"] == "human" and any(mark in turn["value"] for mark in MARKS)


def text(sample: Sample, tokenizer: Tokenizer, frames: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Ids and labels of a sample's text, and how much of it stands before the video.

    A video's time message comes before the words of the turn that shows it, or else of the first human one;
    they start on a line of their own, which asking does not have (xcomp §1.8). ValueError where nobody asks.
    """
    message = "" if is_image(sample) else time_message(len(sample.frames) / sample.real_fps, frames) + " \n"
    human = [number for number, turn in enumerate(sample.conversation) if turn["from"] == "human"]
    if not human:
        raise ValueError("no human turn in a conversation")
    shown = next((number for number in human if marked(sample.conversation[number])), human[0])
    turns = [
        _without_marks(turn) if number in human else turn for number, turn in enumerate(sample.conversation)
    ]
    turns[shown]["value"] = f"<image>\n{message}{turns[shown]['value'].strip()}"
    ids, labels = tokenizer.training_prompt(turns)
    marks = np.flatnonzero(ids == IMAGE_PLACEHOLDER)
    if len(marks) != 1:
        raise ValueError(f"{len(marks)} <image> marks in a conversation, not one")
    return np.delete(ids, marks), np.delete(labels, marks), int(marks[0])


def _without_marks(turn: dict) -> dict:
    value = turn["value"]
    for mark in MARKS:
        value = value.replace(mark, "")
    return {**turn, "value": value.strip() if value != turn["value"] else value}


def visual_room(pool: int, config: XCompConfig) -> int:
    """Visual tokens that a row of `pool` clips may have; those of an image in any case."""
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
    index = np.full(
        (shape.conversations, visual_room(shape.pool if shape.room is None else shape.room, config)),
        -1,
        np.int32,
    )
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
