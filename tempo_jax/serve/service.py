"""The service: a bounded queue of questions, and one thread that owns the model and answers them.

Questions that wait for the video in hand are answered with it. What becomes of a question is told
to its listener as events, called on the service's thread: any number of Progress and Piece, then
one Done or Failed, unless the question was cancelled first.
"""

import dataclasses
import io
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.inference.answering import Turn
from tempo_jax.inference.results import Answer
from tempo_jax.serve.decoder import Cancelled, decoding, warm_up
from tempo_jax.serve.decoder_child import Request
from tempo_jax.serve.limits import Limits
from tempo_jax.serve.model import Model
from tempo_jax.serve.store import Frames, Opened, OpenVideos, VideoFile

log = logging.getLogger("tempo_jax.serve")

THUMBNAIL_SIDE = 160
FIRST_GUESS_SECONDS = 5.0  # of a question, before any has been answered


class Busy(Exception):
    """The queue is full. retry_after: whole seconds after which a place is likely."""

    def __init__(self, retry_after: int):
        super().__init__(f"All places in the queue are taken: try again in {retry_after} seconds.")
        self.retry_after = retry_after


class Closing(Exception):
    """The server is shutting down."""


@dataclasses.dataclass(frozen=True)
class Progress:
    stage: str
    done: int
    total: int


@dataclasses.dataclass(frozen=True)
class Piece:
    text: str


@dataclasses.dataclass(frozen=True)
class Done:
    """reused: the video was open already; open_seconds: what opening it took, now or then."""

    answer: Answer
    reused: bool
    open_seconds: float
    thumbnails: list[bytes]
    batch: int  # questions answered together


@dataclasses.dataclass(frozen=True)
class Failed:
    error: Exception


Event = Progress | Piece | Done | Failed


@dataclasses.dataclass(eq=False)
class Job:
    """One question about one video."""

    video: VideoFile
    question: str
    frames: Frames
    options: Any  # of Model.options
    listener: Callable[[Event], None]
    cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)

    @property
    def key(self) -> tuple[VideoFile, Frames]:
        return self.video, self.frames


class Service:
    """Start it with `start`, end it with `close`; all other methods may be called from any thread."""

    def __init__(self, model: Model, limits: Limits | None = None):
        self.model, self.limits = model, limits or Limits()
        self.store = OpenVideos(self.limits)
        self.observers: list[Callable[[Event], None]] = []  # hear of every Done and Failed
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._changed = threading.Condition()
        self._closing = False
        self._seconds = FIRST_GUESS_SECONDS  # a question takes, lately
        self._thread = threading.Thread(target=self._work, name="tempo-service", daemon=True)

    def start(self) -> "Service":
        warm_up()
        self._thread.start()
        return self

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closing

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def submit(self, job: Job) -> Job:
        """Queues the job. Raises Busy when the queue is full, Closing when the server is shutting down."""
        with self._changed:
            if self._closing:
                raise Closing("The server is shutting down: try again later.")
            if len(self._waiting) >= self.limits.waiting:
                seconds = self._seconds * (len(self._waiting) + len(self._running))
                raise Busy(min(600, max(1, math.ceil(seconds))))
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def cancel(self, job: Job) -> None:
        """Frees the job's place, or stops its computing at the next chunk or piece. Idempotent."""
        job.cancelled.set()
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)

    def drain(self) -> None:
        """Takes no more jobs and fails the waiting ones; those being answered go on."""
        with self._changed:
            self._closing = True
            waiting = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for job in waiting:
            self._tell(job, Failed(Closing("The server is shutting down: try again later.")))

    def close(self, grace: float = 0.0) -> None:
        """Drains, waits up to `grace` seconds for answers under way, stops them, ends the thread."""
        self.drain()
        self._thread.join(grace)
        for job in list(self._running):
            job.cancelled.set()
            self._tell(job, Failed(Closing("The server has shut down before the answer was complete.")))
        self._thread.join()

    # Everything below runs on the service's own thread.

    def _work(self) -> None:
        while jobs := self._next():
            started = time.monotonic()
            try:
                self._answer(jobs)
            except Exception as error:
                self._fail(jobs, error)
            with self._changed:
                self._running = []
            seconds = (time.monotonic() - started) / len(jobs)
            self._seconds = 0.7 * self._seconds + 0.3 * seconds

    def _next(self) -> list[Job]:
        """The job that has waited longest and those it can be answered with; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return []
            self._running = [self._waiting.popleft()]
        self._join()
        return self._running

    def _join(self) -> None:
        """Takes in waiting jobs about the same video."""
        with self._changed:
            room = self.limits.batch - len(self._running)
            same = [job for job in self._waiting if job.key == self._running[0].key][: max(0, room)]
            for job in same:
                self._waiting.remove(job)
            self._running += same

    def _answer(self, jobs: list[Job]) -> None:
        opened, reused = self._open(jobs)
        self._join()  # those that came while the video was being read; jobs is self._running
        turns = [self._turn(job) for job in jobs]
        if not all(turn.cancelled() for turn in turns):
            opened.clip.answer(turns)
        for job, turn in zip(jobs, turns, strict=True):
            if turn.answer is not None:
                self._tell(job, Done(turn.answer, reused, opened.seconds, opened.thumbnails, len(jobs)))
            elif turn.error is not None:
                self._fail([job], turn.error)

    def _turn(self, job: Job) -> Turn:
        return Turn(
            job.question,
            job.options,
            piece=lambda text: self._tell(job, Piece(text)),
            cancelled=job.cancelled.is_set,
            progress=self._progress([job]),
        )

    def _open(self, jobs: list[Job]) -> tuple[Opened, bool]:
        """The opened video, from the store if it is there."""
        key = jobs[0].key
        if found := self.store.get(key):
            return found, True
        self.store.make_room()
        started = time.perf_counter()
        request = Request(
            jobs[0].video.path,
            jobs[0].video.name,
            dataclasses.asdict(jobs[0].frames),
            self.model.video,
            self.limits,
            self.model.sampler,
        )
        thumbnails = _Thumbnails(self.model.video.segment_frames)
        with decoding(request, lambda: all(j.cancelled.is_set() for j in jobs), thumbnails) as source:
            clip = self.model.open(source, self.limits.open_bytes, self._progress(jobs))
        seconds = time.perf_counter() - started
        opened = Opened(clip, self.model.held_bytes(clip), seconds, thumbnails.jpegs)
        self.store.put(key, opened)
        return opened, False

    def _progress(self, jobs: list[Job]) -> Callable[[str, int, int], None]:
        """Passes progress on, and is where long computations notice that nobody waits for them."""

        def progress(stage: str, done: int, total: int) -> None:
            if all(job.cancelled.is_set() for job in jobs):
                raise Cancelled
            for job in jobs:
                self._tell(job, Progress(stage, done, total))

        return progress

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        if internal(error):
            log.error("a question could not be answered", exc_info=error)
        for job in jobs:
            if not isinstance(error, Cancelled):
                self._tell(job, Failed(error))

    def _tell(self, job: Job, event: Event) -> None:
        if job.cancelled.is_set() and not isinstance(event, Failed):
            return
        if isinstance(event, Done | Failed):
            for observer in self.observers:
                observer(event)
        job.listener(event)


class _Thumbnails:
    """Small JPEGs of the frame in the middle of each segment."""

    def __init__(self, segment_frames: int):
        self.jpegs: list[bytes] = []
        self._segment_frames, self._last = segment_frames, -1

    def __call__(self, number: int, frame: np.ndarray) -> None:
        from PIL import Image

        segment, place = divmod(number, self._segment_frames)
        if place and (segment != self._last or place != self._segment_frames // 2):
            return  # the first frame stands in until the middle one is there
        step = max(1, max(frame.shape[:2]) // THUMBNAIL_SIDE)
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(frame[::step, ::step])).save(file, "JPEG", quality=70)
        self.jpegs[segment:] = [file.getvalue()]
        self._last = segment


def internal(error: Exception) -> bool:
    """Whether it is a bug of ours rather than something a user can mend."""
    return not isinstance(error, TempoError | Busy | Closing | Cancelled)


def describe(error: Exception) -> str:
    """The sentence for a user."""
    if internal(error):
        return "The server failed to answer; this is a bug, and the server's log says more."
    return str(error)
