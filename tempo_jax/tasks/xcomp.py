"""Task xcomp: supervised compression tuning of XComp, with LP-Comp in the LLM.

Next-token cross-entropy with LP-Comp (docs/reference/xcomp.md#training-loss and #tuning-recipe) on
conversations about one video or image, in the published prompt (docs/reference/xcomp.md#prompts-of-xcomp).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.data.batch_packing import BatchShape, SampleSize
from tempo_jax.data.samples import MARKS, Sample, check_capacity
from tempo_jax.models.config import PADDING_ID, XCompConfig
from tempo_jax.models.layers import parse_remat_policies
from tempo_jax.models.resize import resize_direct
from tempo_jax.models.xcomp import XComp
from tempo_jax.prompts import IGNORE, IMAGE_PLACEHOLDER, Tokenizer
from tempo_jax.tasks import flops
from tempo_jax.tasks.base import Task, TokenCounts, frames_u8, int32, labeled_positions
from tempo_jax.tasks.losses import Loss, cross_entropy
from tempo_jax.xcomp import cost, token_compression
from tempo_jax.xcomp.layout import FRAME_GROUP, sample_indices, time_message
from tempo_jax.xcomp.token_compression import make_schedule

NUM_REMAT_STACKS = 2  # vision tower, LLM


class Batch(NamedTuple):
    """B conversations about one video each, over a buffer of P clips, or about an image; padded, int32.

    Padding clips have arbitrary content, and no memory_index refers to them.
    """

    frames_PFHWC: jax.Array  # uint8, of any size
    images_BHWC: jax.Array  # uint8, of the rows about an image
    memory_index_BL: jax.Array  # index of the video's tokens in the buffer's P*F*16; -1 past its end
    text_BS: jax.Array  # token ids before the video, then those after it
    labels_BS: jax.Array  # of the same token, not shifted; IGNORE is masked
    prefix_B: jax.Array  # text tokens before the video
    frames_B: jax.Array
    suffix_B: jax.Array  # text tokens after it


def is_image(sample: Sample) -> bool:
    return sample.real_fps is None


def frame_indices(sample: Sample) -> np.ndarray:
    """Returns the indices of a sample's frames that are encoded: an image's one, or a multiple of 8.

    Raises:
      ValueError: A text-only sample or one with several images, which XComp is not tuned on
        (docs/reference/xcomp.md#tuning-recipe).
    """
    if not len(sample.frames):
        raise ValueError("no frames: XComp is tuned on samples with one video or image each")
    if sample.pictures:
        raise ValueError("several pictures: XComp is tuned on samples with one video or image each")
    if is_image(sample):
        if not any(has_visual_mark(turn) for turn in sample.conversation):
            raise ValueError("words alone: XComp is tuned on samples with one video or image each")
        return np.arange(1)
    most = max(FRAME_GROUP, len(sample.frames))
    return sample_indices(len(sample.frames), sample.real_fps, sample.real_fps, FRAME_GROUP, most)


def clip_count(frames: int, config: XCompConfig) -> int:
    """Returns the number of clips of a video with that many prepared frames; 0 for an image's one frame."""
    if frames == 1:
        return 0
    return max(FRAME_GROUP, frames // FRAME_GROUP * FRAME_GROUP) // config.clip_frames


def has_visual_mark(turn: dict) -> bool:
    """Returns whether a turn shows a video or an image."""
    return turn["from"] == "human" and any(mark in turn["value"] for mark in MARKS)


def text(sample: Sample, tokenizer: Tokenizer, frames: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns ids and labels of a sample's text, and the number of tokens before the video.

    The time message precedes the words of the turn that shows the video, or else of the first human turn; a
    line break separates them, unlike in inference (docs/reference/xcomp.md#prompts-of-xcomp).

    Raises:
      ValueError: There is no human turn, or not exactly one <image> mark.
    """
    message = "" if is_image(sample) else time_message(len(sample.frames) / sample.real_fps, frames) + " \n"
    human = [number for number, turn in enumerate(sample.conversation) if turn["from"] == "human"]
    if not human:
        raise ValueError("no human turn in a conversation")
    shown_turn = next((number for number in human if has_visual_mark(sample.conversation[number])), human[0])
    turns = [
        _without_marks(turn) if number in human else turn for number, turn in enumerate(sample.conversation)
    ]
    turns[shown_turn]["value"] = f"<image>\n{message}{turns[shown_turn]['value'].strip()}"
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


def visual_capacity(pool: int, config: XCompConfig) -> int:
    """Returns the visual tokens that a row of `pool` clips may have; at least those of an image."""
    return max(pool * config.memory_tokens, config.frame_tokens)


def sample_size(sample: Sample, tokenizer: Tokenizer, config: XCompConfig) -> SampleSize:
    """Returns the size of a conversation about a video or an image: clips and text tokens."""
    frames = frame_indices(sample)
    ids, _, _ = text(sample, tokenizer, len(frames))
    clips = 0 if is_image(sample) else len(frames) // config.clip_frames
    return SampleSize(clips, len(ids), len(ids), 0, exclusive_row=True)


def collate(samples: Sequence[Sample], tokenizer: Tokenizer, config: XCompConfig, shape: BatchShape) -> Batch:
    """Makes one batch of frames of one size.

    Args:
      samples: Conversations about one video or image each.
      tokenizer: The model's tokenizer.
      config: The model's config.
      shape: `segments` counts clips (0: images only), `compressor_length` a row's text tokens, and
        `sequences` rows of one conversation each, with as many images.

    Raises:
      SampleTooLong: The samples do not fit `shape`.
    """
    check_capacity(("sequences", len(samples), shape.sequences))
    per_clip, tokens = config.clip_frames, config.memory_tokens
    texts = np.full((shape.sequences, shape.compressor_length), PADDING_ID, np.int32)
    labels = np.full_like(texts, IGNORE)
    index = np.full(
        (
            shape.sequences,
            visual_capacity(
                shape.segments if shape.max_sample_segments is None else shape.max_sample_segments, config
            ),
        ),
        -1,
        np.int32,
    )
    lengths = np.zeros((3, shape.sequences), np.int32)  # before the video, frames, after it
    clips: list[np.ndarray] = []
    images = np.zeros((shape.sequences, *(shape.size or samples[0].frames.shape[1:3]), 3), np.uint8)
    for row, sample in enumerate(samples):
        numbers = frame_indices(sample)
        ids, learned, prefix = text(sample, tokenizer, len(numbers))
        count = 0 if is_image(sample) else len(numbers) // per_clip
        check_capacity(
            ("clips", len(clips) + count, shape.segments), ("text tokens", len(ids), shape.compressor_length)
        )
        texts[row, : len(ids)], labels[row, : len(ids)] = ids, learned
        index[row, : count * tokens] = len(clips) * tokens + np.arange(count * tokens)
        lengths[:, row] = prefix, len(numbers), len(ids) - prefix
        if is_image(sample):
            images[row] = sample.frames[0]
            continue
        frames = np.asarray(sample.frames)[numbers]
        clips += list(frames.reshape(count, per_clip, *frames.shape[1:]))
    padding_clip = clips[-1] if clips else np.zeros((per_clip, *images.shape[1:]), np.uint8)
    clips += [padding_clip] * (
        max(1, shape.segments) - len(clips)
    )  # compiled programs need at least one clip
    return Batch(np.stack(clips), images, index, texts, labels, *lengths)


def loss(model: XComp, batch: Batch, *, remat: bool | str = True, shards: int = 1) -> Loss:
    """Returns the summed loss of the batch over labels that are not IGNORE.

    Labels are dropped with their tokens, and each is predicted from the token before it among the remaining
    ones: the first text token after the video from the last visual token.

    Args:
      model: The system.
      batch: One micro-batch.
      remat: Rematerialization policies of vision tower and LLM.
      shards: Number of data shards; rows of a shard refer only to its own clips.
    """
    size = model.config.vision.image_size
    remat_vision, remat_llm = parse_remat_policies(remat, NUM_REMAT_STACKS)
    pool = model.encode_clips(_at_size(batch.frames_PFHWC, size), remat=remat_vision)
    images = model.encode_clips(_at_size(batch.images_BHWC[:, None], size), remat=remat_vision)
    pool = pool.reshape(-1, pool.shape[-1])
    return loss_of_visual(model, pool, images, batch, remat=remat_llm, shards=shards)


def loss_of_visual(
    model: XComp, pool_MD, images_BVD, batch: Batch, *, remat: bool | str = True, shards: int = 1
) -> Loss:
    """Returns the same loss from visual tokens of the buffer and of each row's image."""
    config = model.config
    rows = token_compression.RowLengths(batch.prefix_B, batch.frames_B, batch.suffix_B)
    room = token_compression.RowCapacity(
        batch.text_BS.shape[1], batch.memory_index_BL.shape[1] // config.frame_tokens
    )
    schedule = make_schedule(config.compression, config.llm.num_layers, config.frame_tokens)
    text, visual = token_compression.token_indices(rows, room, config.frame_tokens)
    index = jnp.take_along_axis(batch.memory_index_BL, jnp.maximum(visual, 0), axis=1)
    ids = jnp.take_along_axis(batch.text_BS, jnp.maximum(text, 0), axis=1)
    x = model.assemble(ids, jnp.where(visual >= 0, index, -1), pool_MD, shards)
    token_in_frame = jnp.clip(visual, 0, config.frame_tokens - 1)[..., None]
    image = (visual >= 0) & (batch.frames_B == 1)[:, None]
    x = jnp.where(
        image[..., None], jnp.take_along_axis(images_BVD.astype(x.dtype), token_in_frame, axis=1), x
    )
    hidden = token_compression.forward(model.llm, x, rows, room, schedule, remat=remat)
    labels = jnp.take_along_axis(batch.labels_BS, jnp.maximum(text, 0), axis=1)
    labels = token_compression.compress_labels(jnp.where(text >= 0, labels, IGNORE), rows, room, schedule)
    shifted = jnp.pad(labels[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORE)
    return cross_entropy(model.llm.logits, hidden, shifted)


def _at_size(frames_PFHWC, size: int):
    if frames_PFHWC.shape[2:4] == (size, size):
        return frames_PFHWC
    return jax.lax.map(lambda clip: resize_direct(clip, (size, size)), frames_PFHWC)


def forward_flops(config: XCompConfig, batch: Batch) -> Iterator[flops.ModuleFlops]:
    micro, clips, frames = batch.frames_PFHWC.shape[:3]
    yield flops.ModuleFlops("vision", *(micro * clips * x for x in cost.vision_flops(config.vision, frames)))
    images = micro * batch.images_BHWC.shape[1]
    yield flops.ModuleFlops("vision", *(images * x for x in cost.vision_flops(config.vision, 1)))
    visual = (micro * clips * frames + images) * config.frame_tokens
    width = config.llm.hidden_size
    yield flops.ModuleFlops("projector", 2.0 * visual * (config.vision.hidden_size + width) * width, 0.0)
    rows, text = batch.text_BS.shape[1:]
    weights, scores = cost.llm_flops(config, text, batch.memory_index_BL.shape[2] // config.frame_tokens)
    weights = (
        micro * rows * weights
        + 2.0 * flops.positions_with_logits(batch.labels_BS) * width * config.llm.vocab_size
    )
    yield flops.ModuleFlops("llm", weights, micro * rows * scores)


def counts(batch: Batch, memory_tokens: int) -> TokenCounts:
    """Counts the tokens and frames of a host batch."""
    images, clip = int((batch.frames_B == 1).sum()), batch.frames_PFHWC.shape[-4]
    visual = int((batch.memory_index_BL >= 0).sum()) + images * memory_tokens // clip
    return TokenCounts(labeled_positions(batch.labels_BS) + visual, int(batch.frames_B.sum()))


def abstract_batch(model: XCompConfig, shape: BatchShape, frames: int, micro: int, shards: int):
    pool, rows = (micro, shards * max(1, shape.segments)), (micro, shards * shape.sequences)
    texts = (*rows, shape.compressor_length)
    index = int32(*rows, visual_capacity(shape.segments, model))
    images = jax.ShapeDtypeStruct((*rows, *shape.size, 3), jnp.uint8)
    return Batch(
        frames_u8(pool, frames, shape.size), images, index, int32(*texts), int32(*texts), *(int32(*rows),) * 3
    )


TASK = Task(
    name="xcomp",
    kind="xcomp",
    kinds=("image", "video"),
    batch=Batch,
    num_remat_stacks=NUM_REMAT_STACKS,
    sample_size=sample_size,
    collate=collate,
    loss=loss,
    flops=forward_flops,
    counts=counts,
    abstract_batch=abstract_batch,
    clips_of=clip_count,
)
