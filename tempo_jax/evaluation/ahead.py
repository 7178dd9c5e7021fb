"""The next videos, decoded by worker processes while the device is busy with this one.

Each worker decodes every n-th video and sends its frames through a pipe, from which a thread of ours
fills a queue; a full queue is what makes a worker wait. Whatever is wrong with a video, and were it the
death of the process that decodes it, is that video's error and nobody else's.
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

BLOCK_BYTES = 8 << 20  # of frames that travel together
DAMAGED = "The process that decoded {name} died: the file is damaged, or there was no memory left."


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How frames are taken; of open_video."""

    fps: float
    min_frames: int
    max_frames: int
    config: VideoConfig
    sampler: Callable | None = None  # a module's own function: it goes to another process
    reading: Reading = dataclasses.field(default_factory=Reading)

    def open(self, path: Path) -> Source:
        limits = {"fps": self.fps, "min_frames": self.min_frames, "max_frames": self.max_frames}
        return open_video(path, config=self.config, sampler=self.sampler, **limits, **self.reading)


Job = tuple[Path, Sampling]


@dataclasses.dataclass
class Opened:
    """A video that is about to be read. `decode_seconds` is complete once it has been."""

    source: Source | None
    error: str = ""
    decode_seconds: float = 0.0


def opened(jobs: Sequence[Job], workers: int, ahead_bytes: int) -> Iterator[Opened]:
    """An Opened for every job, in order; the source of one must be read before the next is asked for."""
    if workers < 1:
        yield from map(_open_here, jobs)
        return
    hands = [_Hand(jobs[i::workers], ahead_bytes // workers) for i in range(min(workers, len(jobs)))]
    try:
        for number in range(len(jobs)):
            yield from hands[number % len(hands)].next()
    finally:
        for hand in hands:
            hand.close()


@contextlib.contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Whatever the libraries make of a broken file is one sentence about it."""
    try:
        yield
    except (TempoError, ConnectionError):
        raise
    except (OSError, MemoryError, ValueError, RuntimeError) as error:
        raise TempoError(f"{path.name} cannot be decoded ({type(error).__name__}: {error}).") from error


def _open_here(job: Job) -> Opened:
    path, sampling = job
    started = time.perf_counter()
    try:
        with _decoding(path):
            source = sampling.open(path)
    except TempoError as error:
        return Opened(None, str(error))
    found = Opened(None, decode_seconds=time.perf_counter() - started)
    read = source.iter_frames

    def timed(this: Source) -> Iterator[np.ndarray]:
        with _decoding(path), contextlib.closing(read(this)) as frames:
            started = time.perf_counter()
            for frame in frames:
                found.decode_seconds += time.perf_counter() - started
                yield frame
                started = time.perf_counter()

    found.source = dataclasses.replace(source, iter_frames=timed)
    return found


class _Hand:
    """One worker process and what comes from it."""

    def __init__(self, jobs: Sequence[Job], ahead_bytes: int):
        self._jobs = list(jobs)
        self._depth = max(2, ahead_bytes // BLOCK_BYTES)
        self._done = 0
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # this process has threads, of jax if of nothing else
        ours, theirs = context.Pipe(duplex=False)
        self._dead, self._stopped = False, threading.Event()
        self._items: queue.Queue = queue.Queue(self._depth)
        self._process = context.Process(target=_serve, args=(theirs, self._jobs[self._done :]), daemon=True)
        self._process.start()
        theirs.close()  # or its end of the pipe would outlive it
        receive = threading.Thread(target=_receive, args=(ours, self._items, self._stopped), daemon=True)
        receive.start()

    def _get(self) -> tuple[str, Any]:
        kind, value = self._items.get()
        self._dead = kind == "dead"
        return kind, value

    def next(self) -> Iterator[Opened]:
        """The next video, once; afterwards whatever was not read of it is passed over."""
        name = self._jobs[self._done][0].name
        kind, value = self._get()
        if kind == "dead":  # perhaps of what came before
            self._restart()
            kind, value = self._get()
        if kind == "opened":
            found = Opened(None, decode_seconds=value.pop("decode_seconds"))
            frames = self._frames(found, name)
            found.source = Source(**value, iter_frames=functools.partial(_until_warnings, frames))
            yield found
            with contextlib.suppress(TempoError):
                collections.deque(frames, maxlen=0)
        else:
            yield Opened(None, value if kind == "error" else DAMAGED.format(name=name))
        self._done += 1
        if self._dead and self._done < len(self._jobs):
            self._restart()

    def _frames(self, found: Opened, name: str) -> Iterator[Any]:
        """Frames one by one, and at last the list of the source's warnings."""
        while True:
            kind, value = self._get()
            if kind == "frames":
                yield from value
            elif kind == "end":
                found.decode_seconds += value["seconds"]
                yield value["warnings"]
                return
            else:
                raise TempoError(value if kind == "error" else DAMAGED.format(name=name))

    def _restart(self) -> None:
        self.close()
        self._start()

    def close(self) -> None:
        self._stopped.set()
        self._process.terminate()
        self._process.join()


def _until_warnings(frames: Iterator[Any], source: Source) -> Iterator[np.ndarray]:
    for item in frames:
        if isinstance(item, list):
            source.warnings[:] = item
            return
        yield item


def _receive(pipe: Connection, items: queue.Queue, stopped: threading.Event) -> None:
    """Everything from a worker into its queue, and ("dead", None) after the last."""

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


def _serve(pipe: Connection, jobs: Sequence[Job]) -> None:
    """The worker: decodes its videos one after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the first ends the others
    try:
        for path, sampling in jobs:
            try:
                with _decoding(path):
                    _send(pipe, path, sampling)
            except TempoError as error:
                pipe.send(("error", str(error)))
    except ConnectionError:
        pass  # nobody wants them any more


def _send(pipe: Connection, path: Path, sampling: Sampling) -> None:
    started, busy = time.perf_counter(), 0.0
    source = sampling.open(path)
    fields = {f.name: getattr(source, f.name) for f in dataclasses.fields(source) if f.name != "iter_frames"}
    fields["warnings"] = list(source.warnings)
    pipe.send(("opened", fields | {"decode_seconds": time.perf_counter() - started}))
    frame_bytes = source.height * source.width * 3
    started = time.perf_counter()
    for block in source.chunks(max(1, BLOCK_BYTES // frame_bytes)):
        busy += time.perf_counter() - started
        pipe.send(("frames", block.shape))
        pipe.send_bytes(block.data.cast("B"))
        started = time.perf_counter()
    busy += time.perf_counter() - started
    pipe.send(("end", {"warnings": list(source.warnings), "seconds": busy}))
