"""Worker processes that decode the next videos while the device is busy with this one.

Each worker decodes every n-th video and sends its frames through a pipe, from which a thread of this process
fills a queue; a full queue makes the worker wait. An error of a video, even a crash of the process that
decodes it, affects that video only.
"""

import collections
import contextlib
import dataclasses
import functools
import multiprocessing
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.models.config import VideoConfig
from tempo_jax.video import Reading, Source, open_video

BLOCK_BYTES = 8 << 20  # of frames in one message
WORKER_DIED = "The process that decoded {name} died: the file is damaged, or there was no memory left."


@dataclasses.dataclass(frozen=True)
class FrameSampling:
    """How frames are sampled: the arguments of `video.open_video`."""

    fps: float
    min_frames: int
    max_frames: int
    config: VideoConfig
    sampler: Callable | None = None  # a module-level function, since it is pickled
    reading: Reading = dataclasses.field(default_factory=Reading)

    def open(self, path: Path) -> Source:
        limits = {"fps": self.fps, "min_frames": self.min_frames, "max_frames": self.max_frames}
        return open_video(path, config=self.config, sampler=self.sampler, **limits, **self.reading)


Job = tuple[Path, FrameSampling]


@dataclasses.dataclass
class PrefetchedVideo:
    """A video whose frames are about to be read, or its error; `decode_seconds` is final after reading."""

    source: Source | None
    error: str = ""
    decode_seconds: float = 0.0


def prefetch_videos(jobs: Sequence[Job], workers: int, prefetch_bytes: int) -> Iterator[PrefetchedVideo]:
    """Yields a PrefetchedVideo for every job, in order; read each source before requesting the next.

    Args:
      jobs: Path and frame sampling of each video.
      workers: Number of worker processes; 0 decodes in this process, when frames are read.
      prefetch_bytes: Most bytes of decoded frames in the queues of all workers.
    """
    if workers < 1:
        yield from map(_open_here, jobs)
        return
    queue_bytes = prefetch_bytes // workers
    pool = [_DecodeWorker(jobs[i::workers], queue_bytes) for i in range(min(workers, len(jobs)))]
    try:
        for number in range(len(jobs)):
            with pool[number % len(pool)].next_video() as video:
                yield video
    finally:
        for worker in pool:
            worker.close()


@contextlib.contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turns any exception of the decoding libraries into a TempoError about the file."""
    try:
        yield
    except (TempoError, ConnectionError):
        raise
    except (OSError, MemoryError, ValueError, RuntimeError) as error:
        raise TempoError(f"{path.name} cannot be decoded ({type(error).__name__}: {error}).") from error


def _open_here(job: Job) -> PrefetchedVideo:
    path, sampling = job
    started = time.perf_counter()
    try:
        with _decoding(path):
            source = sampling.open(path)
    except TempoError as error:
        return PrefetchedVideo(None, str(error))
    video = PrefetchedVideo(None, decode_seconds=time.perf_counter() - started)
    read = source.iter_frames

    def timed(this: Source) -> Iterator[np.ndarray]:
        with _decoding(path), contextlib.closing(read(this)) as frames:
            started = time.perf_counter()
            for frame in frames:
                video.decode_seconds += time.perf_counter() - started
                yield frame
                started = time.perf_counter()

    video.source = dataclasses.replace(source, iter_frames=timed)
    return video


class _DecodeWorker:
    """One worker process and the queue of its results."""

    def __init__(self, jobs: Sequence[Job], prefetch_bytes: int):
        self._jobs = list(jobs)
        self._depth = max(2, prefetch_bytes // BLOCK_BYTES)
        self._done = 0
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # this process has threads, so it must not be forked
        receiver, sender = context.Pipe(duplex=False)
        self._dead, self._stopped = False, threading.Event()
        self._items: queue.Queue = queue.Queue(self._depth)
        self._process = context.Process(
            target=_worker_main, args=(sender, self._jobs[self._done :]), daemon=True
        )
        self._process.start()
        sender.close()  # otherwise the pipe would stay open after the worker has ended
        receive = threading.Thread(target=_receive, args=(receiver, self._items, self._stopped), daemon=True)
        receive.start()

    def _get(self) -> tuple[str, Any]:
        kind, value = self._items.get()
        self._dead = kind == "dead"
        return kind, value

    @contextlib.contextmanager
    def next_video(self) -> Iterator[PrefetchedVideo]:
        """Yields the worker's next video; on exit, frames that were not read are discarded."""
        name = self._jobs[self._done][0].name
        kind, value = self._get()
        if kind == "dead":  # perhaps of an earlier video
            self._restart()
            kind, value = self._get()
        if kind == "opened":
            video = PrefetchedVideo(None, decode_seconds=value.pop("decode_seconds"))
            frames = self._frames(video, name)
            video.source = Source(**value, iter_frames=functools.partial(_split_trailer, frames))
            yield video
            with contextlib.suppress(TempoError):
                collections.deque(frames, maxlen=0)
        else:
            yield PrefetchedVideo(None, value if kind == "error" else WORKER_DIED.format(name=name))
        self._done += 1
        if self._dead and self._done < len(self._jobs):
            self._restart()

    def _frames(self, video: PrefetchedVideo, name: str) -> Iterator[Any]:
        """Yields frames one by one, and last the list of the source's warnings."""
        while True:
            kind, value = self._get()
            if kind == "frames":
                yield from value
            elif kind == "end":
                video.decode_seconds += value["seconds"]
                yield value["warnings"]
                return
            else:
                raise TempoError(value if kind == "error" else WORKER_DIED.format(name=name))

    def _restart(self) -> None:
        self.close()
        self._start()

    def close(self) -> None:
        self._stopped.set()
        self._process.terminate()
        self._process.join()


def _split_trailer(frames: Iterator[Any], source: Source) -> Iterator[np.ndarray]:
    for item in frames:
        if isinstance(item, list):
            source.warnings[:] = item
            return
        yield item


def _receive(pipe: Connection, items: queue.Queue, stopped: threading.Event) -> None:
    """Moves all results of a worker into its queue, and ("dead", None) at the end."""

    def put(item: Any) -> None:
        while not stopped.is_set():
            try:
                return items.put(item, timeout=0.1)
            except queue.Full:
                continue

    with pipe:
        while not stopped.is_set():
            try:
                kind, value = pipe.recv()
                if kind == "frames":
                    shape = value
                    value = np.empty(shape, np.uint8)
                    pipe.recv_bytes_into(value.data.cast("B"))
            except (EOFError, OSError):
                break
            put((kind, value))
    put(("dead", None))


def _worker_main(pipe: Connection, jobs: Sequence[Job]) -> None:
    """Decodes the worker's videos one after the other."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole process group; the parent ends the workers
    try:
        for path, sampling in jobs:
            try:
                with _decoding(path):
                    _send(pipe, path, sampling)
            except TempoError as error:
                pipe.send(("error", str(error)))
    except ConnectionError:
        pass  # the parent has closed the pipe


def _send(pipe: Connection, path: Path, sampling: FrameSampling) -> None:
    started, decode_seconds = time.perf_counter(), 0.0
    source = sampling.open(path)
    fields = {f.name: getattr(source, f.name) for f in dataclasses.fields(source) if f.name != "iter_frames"}
    fields["warnings"] = list(source.warnings)
    pipe.send(("opened", fields | {"decode_seconds": time.perf_counter() - started}))
    frame_bytes = source.height * source.width * 3
    started = time.perf_counter()
    for block in source.chunks(max(1, BLOCK_BYTES // frame_bytes)):
        decode_seconds += time.perf_counter() - started
        pipe.send(("frames", block.shape))
        pipe.send_bytes(block.data.cast("B"))
        started = time.perf_counter()
    decode_seconds += time.perf_counter() - started
    pipe.send(("end", {"warnings": list(source.warnings), "seconds": decode_seconds}))
