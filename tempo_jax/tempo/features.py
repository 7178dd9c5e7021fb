"""Question-independent features of a video: decoded, encoded chunk by chunk, and cached on the device."""

import collections
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from tempo_jax.models.decoder import KV
from tempo_jax.models.qwen3_vl import VisionOutput
from tempo_jax.runtime.buckets import ProgramCache
from tempo_jax.runtime.placement import SEGMENT_AXES
from tempo_jax.runtime.prefetch import prefetch
from tempo_jax.runtime.session import Progress, System
from tempo_jax.tempo import layout, steps

SIZES = ProgramCache((steps.resize, steps.encode_frames, steps.prefill_video, steps.compress_chunk))
MAX_IN_FLIGHT = 2  # chunks that the host may run ahead of the device

ChunkFeatures = VisionOutput | list[KV]  # the latter with a prefix cache


class InFlight:
    """Bounds how many computations the host dispatches ahead of the device."""

    def __init__(self, depth: int):
        self._depth, self._results = depth, collections.deque()

    def add(self, result: Any) -> None:
        """Waits for the oldest result where more than `depth` are under way."""
        self._results.append(result)
        if len(self._results) > self._depth:
            jax.block_until_ready(self._results.popleft())


class VideoFeatures:
    """What the compressor needs of a video for any question: visual tokens, or their keys and values.

    Iterating decodes and encodes the video, and yields the features of each chunk. With `keep`, they stay
    cached on the device, and later iterations only yield them.

    Attributes:
      decode_wait_seconds: How long the host waited for decoded frames; callers reset it before a pass.
    """

    def __init__(
        self,
        system: System,
        source: Any,
        video_layout: layout.VideoLayout,
        *,
        keep: bool,
        prefix_cache: bool,
    ):
        self.system, self.source, self.layout = system, source, video_layout
        self.prefix_cache = prefix_cache
        self.decode_wait_seconds = 0.0
        self._keep = keep
        self._cached_chunks: list[ChunkFeatures] = []

    @property
    def is_cached(self) -> bool:
        return len(self._cached_chunks) == len(self.layout.chunks)

    @property
    def nbytes(self) -> int:
        """Device memory of the cached chunks."""
        return sum(x.nbytes for x in jax.tree.leaves(self._cached_chunks))

    def clear(self) -> None:
        """Drops the cached chunks."""
        self._cached_chunks = []

    def encode(self, progress: Progress = None, *, synchronous: bool = False) -> None:
        """Decodes and encodes the video unless it is cached.

        synchronous: waits for every chunk before its progress is reported, so that the device is idle then.
        """
        for chunk in self.chunks(progress):
            if synchronous:
                jax.block_until_ready(chunk)
        jax.block_until_ready(self._cached_chunks)

    def chunks(self, progress: Progress = None) -> Iterator[ChunkFeatures]:
        """Yields the features of each chunk; decodes and encodes the video unless it is cached."""
        if self.is_cached:
            yield from self._cached_chunks
            return
        self._cached_chunks = []
        in_flight, total = InFlight(MAX_IN_FLIGHT), len(self.layout.chunks)
        started = time.perf_counter()
        for index, frames in enumerate(prefetch(layout.chunk_frames(self.source, self.layout))):
            self.decode_wait_seconds += time.perf_counter() - started
            chunk = self._encode(index, frames)
            if self._keep:
                self._cached_chunks.append(chunk)
            yield chunk
            in_flight.add(chunk)
            if progress:
                progress("decoding", index + 1, total)
            started = time.perf_counter()

    def prefix(self, index: int, chunk: ChunkFeatures) -> list[KV]:
        """The keys and values of chunk `index`, given its features."""
        if self.prefix_cache:
            return chunk
        prompts = self.system.place.put(self.layout.chunks[index].prompts)
        return steps.prefill_video(self.system.model.compressor, chunk, prompts)

    def compile(self) -> None:
        """Compiles what decoding is followed by, so that the device does not wait for it later."""
        video_layout, compressor = self.layout, self.system.model.compressor
        place = self.system.place
        height, width = self.source.height, self.source.width
        shape = (video_layout.chunk_segments, video_layout.segment_frames)
        prompts = video_layout.chunks[0].prompts
        size = (shape, (height, width), video_layout.steps, prompts.token_ids_SL.shape)
        if not SIZES.use(size) or place.mesh is not None:
            return
        with place():
            sharding = place.sharding()  # of arguments and results: part of a program's key
            frames = jax.ShapeDtypeStruct((*shape, height, width, 3), np.uint8, sharding=sharding)
            steps.resize.lower(frames, steps=video_layout.steps, image=video_layout.is_image).compile()
            resized = frames.update(shape=(*shape, *video_layout.steps[-1], 3))
            steps.encode_frames.lower(compressor, resized).compile()
            if self.prefix_cache:
                visual = jax.tree.map(
                    lambda x: x.update(sharding=sharding),
                    jax.eval_shape(steps.encode_frames, compressor, resized),
                )
                steps.prefill_video.lower(compressor, visual, place.put(prompts)).compile()

    def _encode(self, index: int, frames: np.ndarray) -> ChunkFeatures:
        frames = self.system.place.put(frames, SEGMENT_AXES)
        resized = steps.resize(frames, steps=self.layout.steps, image=self.layout.is_image)
        visual = steps.encode_frames(self.system.model.compressor, resized)
        if not self.prefix_cache:
            return visual
        prompts = self.system.place.put(self.layout.chunks[index].prompts)
        return steps.prefill_video(self.system.model.compressor, visual, prompts)
