"""Sampled frames of a video: decoded once, kept on the host at model size, encoded and scored."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.runtime import buckets
from tempo_jax.runtime.buckets import ProgramCache
from tempo_jax.runtime.placement import SEGMENT_AXES
from tempo_jax.runtime.prefetch import prefetch
from tempo_jax.runtime.session import Progress, System
from tempo_jax.xcomp import frame_selection, layout, steps
from tempo_jax.xcomp.frame_selection import FrameScores, Question, ScoringWindows
from tempo_jax.xcomp.layout import repeat_indices
from tempo_jax.xcomp.options import Options

SIZES = ProgramCache((steps.resize,))
RESIZE_BATCH = 8  # frames
# Frames of a prompt.
FRAME_BUCKETS = (
    8,
    16,
    32,
    64,
    128,
    256,
    512,
    768,
    1024,
    1536,
    2048,
    3072,
    4096,
)


class Frames:
    """The sampled frames of a video, and the visual tokens of their clips.

    The vision tower runs once per clip and alignment: visual tokens are cached by the frame at which the
    first clip starts, modulo the clips' length.

    Attributes:
      count: Number of frames, after repetition.
      sample_order: For each frame, which of the sampled frames it is.
      frame_indices: For each frame, its index in the video.
      per_clip: Frames of a clip.
      seconds: Time spent on decoding.
    """

    def __init__(self, system: System, source: Any, min_frames: int = 0):
        """min_frames: the frames of a shorter video are repeated to so many."""
        self.system, self.source = system, source
        sampled_indices = np.asarray(source.indices)
        self.sample_order = repeat_indices(len(sampled_indices), min_frames)
        self.frame_indices = sampled_indices[self.sample_order]
        self.count = len(self.frame_indices)
        self.per_clip = 1 if source.kind == "image" else system.config.clip_frames
        self.seconds = 0.0
        self._pixels: np.ndarray | None = None
        self._visual_tokens: dict[int, jax.Array] = {}

    @property
    def num_clips(self) -> int:
        return self.count // self.per_clip

    def bucket(self, frames: int) -> int:
        return buckets.pick_bucket(frames, FRAME_BUCKETS)

    def compile(self) -> None:
        """Compiles what depends on the frames' own size, so that the device does not wait for it later."""
        size = (self.source.height, self.source.width)
        if not SIZES.use(size) or self.system.place.mesh is not None:
            return
        with self.system.place():
            frames = jax.ShapeDtypeStruct((RESIZE_BATCH, 1, *size, 3), np.uint8)
            steps.resize.lower(frames, size=self.system.config.vision.image_size).compile()

    def clear(self) -> None:
        """Drops cached frames and visual tokens."""
        self._pixels, self._visual_tokens = None, {}

    def visual_tokens(self, alignment: int = 0, progress: Progress = None) -> jax.Array:
        """Visual tokens of all clips, the first starting at frame `alignment`; the last may wrap around."""
        if alignment not in self._visual_tokens:
            order = (np.arange(self.count) + alignment) % self.count
            self._visual_tokens[alignment] = self._encode(order, progress)
        return self._visual_tokens[alignment]

    def encode(self, selected_N: np.ndarray, progress: Progress = None) -> jax.Array:
        """Visual tokens of the selected frames, in clips of consecutive selected ones.

        See docs/reference/xcomp.md#frame-scores.
        """
        if len(selected_N) == self.count:
            return self.visual_tokens(0, progress)
        return self._encode(selected_N, progress)

    def _encode(self, order: np.ndarray, progress: Progress) -> jax.Array:
        system, per_clip = self.system, self.per_clip
        pixels = self._decoded(progress)
        clips = (self.bucket(len(order)) if self.source.kind != "image" else 1) // per_clip
        chunk = min(system.chunk_clips, buckets.next_power_of_two(clips))
        chunk = buckets.round_up_to(chunk, system.place.segment_shards)
        padded_clips = buckets.round_up_to(clips, chunk)
        clip_tokens = system.config.frame_tokens * per_clip
        width, dtype = system.config.llm.hidden_size, system.dtype
        buffer = system.place.put(np.zeros((padded_clips * clip_tokens, width), dtype))
        total = -(-len(order) // (chunk * per_clip))
        for index in range(total):
            indices = order[index * chunk * per_clip : (index + 1) * chunk * per_clip]
            frames = pixels[np.pad(indices, (0, chunk * per_clip - len(indices)), mode="edge")]
            frames = frames.reshape(chunk, per_clip, *frames.shape[1:])
            frames = system.place.put(frames, SEGMENT_AXES)
            buffer = steps.encode_frames(system.model, buffer, frames, jnp.int32(index * chunk * clip_tokens))
            if progress:
                jax.block_until_ready(buffer)  # so that completed work is reported, not dispatched work
                progress("encoding frames", index + 1, total)
        return buffer

    def _decoded(self, progress: Progress) -> np.ndarray:
        """All frames at the model's size, uint8 [count, size, size, 3]."""
        if self._pixels is None:
            started = time.perf_counter()
            frames = np.concatenate(list(self._resized(progress)))[: self.source.num_frames]
            self._pixels = frames if len(frames) == self.count else frames[self.sample_order]
            self.seconds = time.perf_counter() - started
        return self._pixels

    def _resized(self, progress: Progress) -> Iterator[np.ndarray]:
        size, batch = self.system.config.vision.image_size, RESIZE_BATCH
        total = -(-self.source.num_frames // batch)
        previous = None
        for index, frames in enumerate(prefetch(self.source.chunks(batch))):
            missing = batch - len(frames)
            frames = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)]) if missing else frames
            resized = steps.resize(jnp.asarray(frames)[:, None], size=size)
            if previous is not None:
                yield self.system.place.fetch(previous)[:, 0]  # while the next batch is computed
            previous = resized
            if progress:
                progress("decoding", index + 1, total)
        if previous is not None:
            yield self.system.place.fetch(previous)[:, 0]


def frame_scores(
    system: System,
    frames: Frames,
    text: layout.PromptText,
    prompt: steps.Prompt,
    options: Options,
    windows: ScoringWindows,
    progress: Progress = None,
) -> np.ndarray:
    """Scores of all frames, float64 [F], by one pass of the LLM's scoring layers per chunk.

    Nothing is generated, and the layers after the last scoring one are not run.
    """
    skip = text.question_start if options.query_skip is None else options.query_skip
    if skip >= text.question_end:
        raise TempoError(
            f"query_skip is {skip}, but only {text.question_end} tokens follow the video: lower it "
            "or leave it out."
        )
    count, config = frames.count, system.config
    chunk_length = frame_selection.chunk_frames(count, windows)
    starts = frame_selection.chunk_starts(count, options.repeats, windows)
    layers = range(*config.score_layers)
    question = Question(*map(np.int32, (skip, text.question_end, len(text.suffix))))
    total = FrameScores(count, len(layers))
    prompt, question = system.place.put(prompt), system.place.put(question)
    for done, start in enumerate(starts, 1):
        alignment = start % frames.per_clip
        scores = steps.score(
            system.model,
            frames.visual_tokens(alignment, progress),
            np.int32(start // frames.per_clip),
            np.int32(frames.num_clips),
            prompt,
            question,
            frames=chunk_length,
            schedule=system.drop_schedule(options),
            layers=layers,
            windows=windows,
            causal=options.causal_scoring,
        )
        total.add(start, system.place.fetch(scores).astype(np.float64), windows)
        if progress:
            progress("scoring frames", done, len(starts))
    return total.scores()
