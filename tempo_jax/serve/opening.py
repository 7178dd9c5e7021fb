"""Opens a video: decoded in a child process, encoded chunk by chunk while the device is free."""

import contextlib
import dataclasses
import io
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from tempo_jax.runtime import prefetch
from tempo_jax.serve import device
from tempo_jax.serve.decoder import Cancelled, decoding
from tempo_jax.serve.decoder_child import Request
from tempo_jax.serve.limits import Limits
from tempo_jax.serve.store import CachedVideo, Key
from tempo_jax.video import Source

THUMBNAIL_SIDE = 160


class Owner(Protocol):
    """What an opening needs of the service that started it."""

    model: Any
    limits: Limits

    def jobs_of(self, key: Key) -> list[Any]: ...
    def opening_over(
        self, opening: "Opening", opened: CachedVideo | None, error: Exception | None
    ) -> None: ...
    def progress(self, jobs: Callable[[], list[Any]]) -> Callable[[str, int, int], None]: ...


class Opening:
    """A video that is being decoded and encoded; `client`: the one whose question started it."""

    def __init__(self, service: Owner, to_compute: device.Device, key: Key, client: str):
        self.key, self.client = key, client
        self._service = service
        self._turn = device.Turn(to_compute, self._cancelled)
        self._waits_since: float | None = None
        self.thread = threading.Thread(target=self._work, name="tempo-opening", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def jobs(self) -> list[Any]:
        """The jobs that wait for the video."""
        return self._service.jobs_of(self.key)

    @property
    def stalled(self) -> float:
        """Seconds since it began to wait for frames; 0 while it does not wait."""
        since = self._waits_since
        return 0.0 if since is None else time.monotonic() - since

    def _cancelled(self) -> bool:
        return not self.jobs()  # a cancelled job leaves the queue

    def _check(self) -> None:
        if self._cancelled():
            raise Cancelled

    def _work(self) -> None:
        opened, error = None, None
        try:
            opened = self._open()
        except Exception as found:
            error = found
        finally:
            self._service.opening_over(self, opened, error)  # first, so that its questions are seen
            self._turn.give()

    def _open(self) -> CachedVideo:
        video, frames = self.key
        model, limits = self._service.model, self._service.limits
        request = Request(
            video.path, video.name, dataclasses.asdict(frames), model.video, limits, model.sampler
        )
        thumbnails = Thumbnails(model.video.segment_frames)
        started = time.perf_counter()
        prefetch.while_waiting.set(self._lent)  # in this thread's context
        tell = self._service.progress(self.jobs)

        def progress(stage: str, done: int, total: int) -> None:
            tell(stage, done, total)
            self._turn.give()
            self._turn.take(self._check)

        self._waits_since = time.monotonic()
        with decoding(request, self._cancelled, thumbnails) as source:
            self._waits_since = None
            clip = model.prepare(source, limits.open_bytes)  # compiling does not take the device
            self._turn.take(self._check)
            model.open(clip, progress)
            held = model.held_bytes(clip)
        return CachedVideo(
            clip=clip,
            held_bytes=held,
            seconds=time.perf_counter() - started,
            thumbnails=thumbnails.jpegs,
            frames=source.num_frames,
            duration_seconds=source.duration_seconds,
            spans=spans(source, model.video.segment_frames),
        )

    @contextlib.contextmanager
    def _lent(self) -> Iterator[None]:
        """Gives the device to other threads while this one waits for frames."""
        held = self._turn.give()
        self._waits_since = time.monotonic()
        try:
            yield
        finally:
            self._waits_since = None
        if held:
            self._turn.take(self._check)


def spans(source: Source, segment_frames: int) -> list[tuple[float, float]]:
    """Start and end of each segment in seconds; of an image, none."""
    return [(float(s.start_seconds), float(s.end_seconds)) for s in source.segments(segment_frames)]


class Thumbnails:
    """Small JPEGs of the frame in the middle of each segment; called with every frame."""

    def __init__(self, segment_frames: int):
        self.jpegs: list[bytes] = []
        self._segment_frames, self._last = segment_frames, -1

    def __call__(self, number: int, frame: np.ndarray) -> None:
        segment, place = divmod(number, self._segment_frames)
        if place and (segment != self._last or place != self._segment_frames // 2):
            return  # the first frame stands in until the middle one is there
        self.jpegs[segment:] = [thumbnail(frame)]
        self._last = segment


def thumbnail(frame: Any) -> bytes:
    """A JPEG of uint8 [H, W, 3], THUMBNAIL_SIDE pixels or a little more on its long side."""
    from PIL import Image

    step = max(1, max(frame.shape[:2]) // THUMBNAIL_SIDE)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame[::step, ::step])).save(file, "JPEG", quality=70)
    return file.getvalue()
