"""How much of a batch a sample takes, per task; the token counts are those of the task's collate."""

from collections.abc import Callable

from tempo_jax.data import collate_align, collate_xcomp
from tempo_jax.data.collate import Sample, is_text_only
from tempo_jax.data.collate_svlm import conversation_row
from tempo_jax.data.packing import Need
from tempo_jax.models.config import DecoderConfig, Qwen3VLConfig, TempoConfig, VideoConfig, XCompConfig
from tempo_jax.models.vision import grid_of, output_tokens
from tempo_jax.prompts import IMAGE_PLACEHOLDER, Tokenizer


def tempo_need(sample: Sample, tokenizer: Tokenizer, config: TempoConfig) -> Need:
    """Of a conversation about a video or an image, as collate.collate lays it out."""
    vision, memory = config.compressor.vision, config.memory_tokens
    visual = output_tokens(grid_of(*sample.frames.shape[1:3], vision), vision)
    question = len(tokenizer.question_ids(sample.query)) + memory
    ids, _ = tokenizer.training_prompt(sample.conversation)
    if is_text_only(ids):
        return Need(0, 0, 0, len(ids))
    if (marks := int((ids == IMAGE_PLACEHOLDER).sum())) != 1:
        raise ValueError(f"{marks} <image> marks in a conversation, not one or none")
    prompt = len(ids) - 1  # the mark gives way to memory tokens
    if sample.real_fps is None:
        rows = [len(tokenizer.prefix_row(None, visual, training=not sample.as_asked)) + question]
        return Need(1, rows[0], rows[0], prompt + memory)
    rows, tags = [], 0
    for time in sample.segments(config.video.segment_frames):
        seconds = time.slice_seconds
        rows.append(len(tokenizer.prefix_row(seconds, visual, training=not sample.as_asked)) + question)
        tags += len(tokenizer.tag_ids(time.tag_seconds))
    return Need(len(rows), sum(rows), max(rows), prompt + tags + memory * len(rows))


def svlm_need(sample: Sample, tokenizer: Tokenizer, config: Qwen3VLConfig) -> Need:
    """Of a conversation about one segment, as collate_svlm.collate lays it out; it marks nothing as shown."""
    if any(mark in turn["value"] for turn in sample.conversation for mark in collate_xcomp.MARKS):
        raise ValueError("an <image> mark: the task svlm takes a segment's own questions, as minireel's")
    frames = VideoConfig().segment_frames
    if not 0 < len(sample.frames) <= frames:
        raise ValueError(f"a segment of {len(sample.frames)} frames, not 1 to {frames}")
    visual = output_tokens(grid_of(*sample.frames.shape[1:3], config.vision), config.vision)
    length = len(conversation_row(sample, tokenizer, visual)[0])
    return Need(1, length, length, 0)


def llm_need(sample: Sample, tokenizer: Tokenizer, config: DecoderConfig) -> Need:
    """Of a conversation in words, as collate_llm.collate lays it out."""
    ids, _ = tokenizer.training_prompt(sample.conversation)
    if not is_text_only(ids):
        raise ValueError("an <image> mark: the task llm takes conversations in words")
    return Need(0, 0, 0, len(ids))


def align_need(sample: Sample, tokenizer: Tokenizer, config: TempoConfig) -> Need:
    """Of a video whose last turn has a note for each segment, as collate_align.collate lays it out."""
    need = tempo_need(sample, tokenizer, config)
    notes = len(collate_align.TAG.split(sample.conversation[-1]["value"])) - 1
    if notes != need.segments:
        raise ValueError(f"{notes} notes for {need.segments} segments: the task align takes minireel's notes")
    return need


def xcomp_need(sample: Sample, tokenizer: Tokenizer, config: XCompConfig) -> Need:
    """Of a conversation about a video or image, as collate_xcomp.collate lays it out: clips, text tokens."""
    frames = collate_xcomp.frame_numbers(sample)
    ids, _, _ = collate_xcomp.text(sample, tokenizer, len(frames))
    clips = 0 if collate_xcomp.is_image(sample) else len(frames) // config.clip_frames
    return Need(clips, len(ids), len(ids), 0, alone=True)


# Task -> the need of one of its samples.
NEEDS: dict[str, Callable[..., Need]] = {
    "tempo": tempo_need, "align": align_need, "svlm": svlm_need, "llm": llm_need,
    "xcomp": xcomp_need,
}  # fmt: skip
