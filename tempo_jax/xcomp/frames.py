"""Sampled frames of a video: read once, kept on the host at model size, encoded and scored clip by clip."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.runtime import buckets
from tempo_jax.runtime.buckets import ProgramCache
from tempo_jax.runtime.placement import SEGMENTS
from tempo_jax.runtime.prefetch import prefetch
from tempo_jax.runtime.session import System
from tempo_jax.xcomp import frame_selection, layout, steps
from tempo_jax.xcomp.frame_selection import FrameScores, Question, Windows
from tempo_jax.xcomp.layout import repeat
from tempo_jax.xcomp.options import Options

SIZES = ProgramCache((steps.resize,))
READ_STEP = 8  # frames resized at a time
Progress = Callable[[str, int, int], None] | None
FRAMES = (8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096)  # buckets of frames in a prompt


class Frames:
    """`count` frames, `numbers` of which say where in the video they are, `order` which of the sampled ones.

    least: the frames of a shorter video are repeated to so many. The tower runs once per clip and alignment:
    pools of visual tokens are kept by where their clips start, modulo the clips' length.
    """

    def __init__(self, system: System, source: Any, least: int = 0):
        self.system, self.source = system, source
        numbers = np.asarray(source.indices)
        self.order = repeat(len(numbers), least)
        self.numbers = numbers[self.order]
        self.count = len(self.numbers)
        self.per_clip = 1 if source.kind == "image" else system.config.clip_frames
        self.seconds = 0.0  # spent on reading and decoding
        self._pixels: np.ndarray | None = None
        self._pools: dict[int, jax.Array] = {}

    @property
    def clips(self) -> int:
        return self.count // self.per_clip

    def bucket(self, frames: int) -> int:
        return buckets.bucket(frames, FRAMES)

    def compile(self) -> None:
        """Compiles what depends on the frames' own size, so that the device is not kept waiting for it."""
        size = (self.source.height, self.source.width)
        if not SIZES.use(size) or self.system.place.mesh is not None:
            return
        with self.system.place():
            frames = jax.ShapeDtypeStruct((READ_STEP, 1, *size, 3), np.uint8)
            steps.resize.lower(frames, size=self.system.config.vision.image_size).compile()

    def forget(self) -> None:
        """Gives back what is held."""
        self._pixels, self._pools = None, {}

    def pool(self, alignment: int = 0, progress: Progress = None) -> jax.Array:
        """Visual tokens of all clips, the first starting at frame `alignment`; the last may wrap around."""
        if alignment not in self._pools:
            order = (np.arange(self.count) + alignment) % self.count
            self._pools[alignment] = self._see(order, progress)
        return self._pools[alignment]

    def encode(self, selected_N: np.ndarray, progress: Progress = None) -> jax.Array:
        """Visual tokens of these frames, in clips of consecutive selected ones (xcomp §3.4)."""
        if len(selected_N) == self.count:
            return self.pool(0, progress)
        return self._see(selected_N, progress)

    def _see(self, order: np.ndarray, progress: Progress) -> jax.Array:
        system, per_clip = self.system, self.per_clip
        pixels = self._read(progress)
        rows = self.bucket(len(order)) if self.source.kind != "image" else 1
        clips = rows // per_clip
        chunk = min(system.chunk_clips, buckets.power_of_two(clips))
        chunk = buckets.multiple(chunk, system.place.segment_shards)
        padded = buckets.multiple(clips, chunk)
        tokens = system.config.frame_tokens * per_clip
        width, dtype = system.config.llm.hidden_size, system.dtype
        pool = system.place.put(np.zeros((padded * tokens, width), dtype))
        total = -(-len(order) // (chunk * per_clip))
        for index in range(total):
            own = order[index * chunk * per_clip : (index + 1) * chunk * per_clip]
            frames = pixels[np.pad(own, (0, chunk * per_clip - len(own)), mode="edge")]
            frames = frames.reshape(chunk, per_clip, *frames.shape[1:])
            frames = system.place.put(frames, SEGMENTS)
            pool = steps.see(system.model, pool, frames, jnp.int32(index * chunk * tokens))
            if progress:
                jax.block_until_ready(
                    pool
                )  # so that it tells what has been seen, not what has been asked for
                progress("encoding frames", index + 1, total)
        return pool

    def _read(self, progress: Progress) -> np.ndarray:
        """All frames at the model's size, uint8 [count, size, size, 3]."""
        if self._pixels is None:
            started = time.perf_counter()
            found = np.concatenate(list(self._resized(progress)))[: self.source.num_frames]
            self._pixels = found if len(found) == self.count else found[self.order]
            self.seconds = time.perf_counter() - started
        return self._pixels

    def _resized(self, progress: Progress) -> Iterator[np.ndarray]:
        size, step = self.system.config.vision.image_size, READ_STEP
        total = -(-self.source.num_frames // step)
        waiting = None
        for index, frames in enumerate(prefetch(self.source.chunks(step))):
            missing = step - len(frames)
            frames = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)]) if missing else frames
            resized = steps.resize(jnp.asarray(frames)[:, None], size=size)
            if waiting is not None:
                yield np.asarray(waiting)[:, 0]  # of the chunk before, while this one is computed
            waiting = resized
            if progress:
                progress("decoding", index + 1, total)
        if waiting is not None:
            yield np.asarray(waiting)[:, 0]


def frame_scores(
    system: System,
    frames: Frames,
    text: layout.Text,
    prompt: steps.Prompt,
    options: Options,
    windows: Windows,
    progress: Callable[[str, int, int], None] | None = None,
) -> np.ndarray:
    """Scores of all sampled frames, float64 [F]: one pass of the LLM's scoring layers per chunk.

    Nothing is generated, and the layers after the last scoring one are not run.
    """
    skip = text.question_start if options.query_skip is None else options.query_skip
    if skip >= text.question_end:
        raise TempoError(
            f"query_skip is {skip}, but only {text.question_end} tokens follow the video: lower it "
            "or leave it out."
        )
    count, config = frames.count, system.config
    length = frame_selection.chunk_frames(count, windows)
    starts = frame_selection.chunk_starts(count, options.repeats, windows)
    layers = range(*config.score_layers)
    question = Question(*map(np.int32, (skip, text.question_end, len(text.suffix))))
    total = FrameScores(count, len(layers))
    prompt, question = system.place.put(prompt), system.place.put(question)
    for done, start in enumerate(starts, 1):
        alignment = start % frames.per_clip
        found = steps.score(
            system.model,
            frames.pool(alignment, progress),
            np.int32(start // frames.per_clip),
            np.int32(frames.clips),
            prompt,
            question,
            frames=length,
            plan=system.plan(options),
            layers=layers,
            windows=windows,
            causal=options.causal_scoring,
        )
        total.add(start, np.asarray(found, np.float64), windows)
        if progress:
            progress("scoring frames", done, len(starts))
    return total.scores()
