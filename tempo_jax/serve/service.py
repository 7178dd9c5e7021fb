"""The service: a bounded queue of questions, a few threads that answer them, a few that open videos.

Questions that wait for the same video are answered together, and the answers of all are decoded together
(`runtime.batching`). All threads compute by turns (`device`): answers
a slice of some tokens at a time, so that a short one need not wait for the end of a long one, and videos that
are not open yet are opened chunk by chunk between them. A job's `on_event` is called
with events (`events`), called on the service's threads: the last one is Completed, Ready (of a job without a
question) or Failed, unless the job was cancelled.
"""

import contextlib
import dataclasses
import itertools
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tempo_jax.runtime import prefetch
from tempo_jax.runtime.session import GenerationRequest, Message
from tempo_jax.serve.decoder import Cancelled, warm_up
from tempo_jax.serve.device import Answering, Device
from tempo_jax.serve.errors import QueueFull, ShuttingDown, internal
from tempo_jax.serve.events import Completed, Event, Failed, Progress, Queued, Ready, Started, TextDelta
from tempo_jax.serve.limits import Limits
from tempo_jax.serve.model import Model
from tempo_jax.serve.opening import Opening
from tempo_jax.serve.store import CachedVideo, FrameSampling, Key, VideoCache, VideoFile

log = logging.getLogger("tempo_jax.serve")

FIRST_GUESS_SECONDS = 5.0  # of a question, before any has been answered
STALLED_SECONDS = 5.0  # an opening that waits so long for frames lends its place to another
MOST_STALLED = 4  # times as many openings as places, at most
NEWCOMERS = 4  # places beyond the queue's for those who have none in it
DECODING_STAGE = "generating"  # what systems call that stage
CHECK_SECONDS = 1.0  # how soon it is noticed that an opening has stalled


@dataclasses.dataclass(eq=False)
class Job:
    """A question about a video, or None to open it only. client: whom to schedule fairly.

    conversation: earlier messages, and the video's place in them; stop: texts that end the answer.
    """

    video: VideoFile
    question: str | None
    frames: FrameSampling
    options: Any  # of Model.options
    on_event: Callable[[Event], None]
    client: str = ""
    conversation: Sequence[Message] = ()
    stop: tuple[str, ...] = ()
    cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)
    number: int = 0  # of the order of arrival
    opened: CachedVideo | None = None  # once it may be answered
    reused: bool = False
    place: int | None = None  # in the queue, as told last

    @property
    def key(self) -> Key:
        return self.video, self.frames


@dataclasses.dataclass(eq=False)
class Group:
    """Jobs that are answered together.

    reading: until their answers are being written; only one group at a time reads an open video.
    requests: what the jobs ask of the clip, once they do.
    """

    jobs: list[Job]
    turn: Answering
    reading: bool = True
    requests: Sequence[GenerationRequest] = ()

    @property
    def opened(self) -> CachedVideo:
        return self.jobs[0].opened

    def cancelled(self) -> bool:
        return all(job.cancelled.is_set() for job in self.jobs)

    def is_over(self) -> bool:
        """Whether all answers are complete, the last steps maybe by the threads of other groups."""
        return all(request.has_ended or request.is_cancelled() for request in self.requests)

    def check(self) -> None:
        if self.cancelled():
            raise Cancelled

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """While it compiles, others compute."""
        held = self.turn.give()
        try:
            yield
        finally:
            if held:
                self.turn.take(self.check)


class Service:
    """Start it with `start`, end it with `close`; all other methods may be called from any thread."""

    def __init__(self, model: Model, limits: Limits | None = None):
        self.model, self.limits = model, limits or Limits()
        self.store = VideoCache(self.limits)
        self.observers: list[Callable[[Event], None]] = []  # hear of every Completed and Failed
        self._device = Device()
        self._waiting: list[Job] = []  # in the order of arrival; those whose video is being opened too
        self._groups: list[Group] = []  # being answered
        self._claimed = False  # a thread waits for its turn to answer something new
        self._openings: dict[Key, Opening] = {}
        self._served: dict[str, int] = {}  # client -> when it was last served, of those that wait
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closing = False
        self._seconds = FIRST_GUESS_SECONDS  # a question takes, lately
        self._threads = [
            threading.Thread(target=self._work, name=f"tempo-service-{number}", daemon=True)
            for number in range(self.limits.answers)
        ]

    def start(self) -> "Service":
        warm_up()
        for thread in self._threads:
            thread.start()
        return self

    @property
    def alive(self) -> bool:
        return not self._closing and all(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Questions being answered, and videos being opened."""
        return len(self._running()) + len(self._openings)

    @property
    def computes(self) -> bool:
        """Whether a thread of it has not ended."""
        return any(thread.is_alive() for thread in self._all_threads())

    def _all_threads(self) -> list[threading.Thread]:
        return [*self._threads, *(opening.thread for opening in list(self._openings.values()))]

    def _running(self) -> list[Job]:
        """Jobs being answered."""
        return [job for group in list(self._groups) for job in group.jobs]

    def submit(self, job: Job) -> Job:
        """Queues the job. Raises QueueFull when it is full, ShuttingDown when the server is."""
        with self._changed:
            if self._closing:
                raise ShuttingDown("The server is shutting down: try again later.")
            new = all(other.client != job.client for other in self._waiting)
            if len(self._waiting) >= self.limits.waiting + (NEWCOMERS if new and self._waiting else 0):
                seconds = self._seconds * (len(self._waiting) + len(self._running()))
                raise QueueFull(min(600, max(1, math.ceil(seconds))))
            job.number = next(self._numbers)
            self._waiting.append(job)
            self._update()
        return job

    def cancel(self, job: Job) -> None:
        """Frees the job's place, or stops its computing at the next chunk or piece. Idempotent."""
        job.cancelled.set()
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                self._update()

    def forget(self, video: VideoFile, frames: FrameSampling | None = None) -> None:
        """Lets go of what is held of a video (sampled so) unless a question about it waits."""
        with self._changed:
            wanted = {job.key for job in (*self._waiting, *self._running())}
            self.store.drop(lambda key: key[0] == video and frames in (None, key[1]) and key not in wanted)

    def drain(self) -> None:
        """Takes no more jobs and fails the waiting ones; running ones continue."""
        with self._changed:
            self._closing = True
            waiting, self._waiting = self._waiting, []
            self._changed.notify_all()
        for job in waiting:
            self._emit(job, Failed(ShuttingDown("The server is shutting down: try again later.")))
            job.cancelled.set()

    def close(self, grace: float = 0.0, patience: float | None = None) -> None:
        """Drains, waits up to `grace` seconds for answers under way, stops them, ends the threads.

        patience: seconds to wait for the threads to end after that; None: as long as it takes.
        """
        self.drain()
        _join_threads(self._threads, grace)
        for job in self._running():
            if not job.cancelled.is_set():
                self._emit(
                    job, Failed(ShuttingDown("The server has shut down before the answer was complete."))
                )
                job.cancelled.set()
        _join_threads(self._all_threads(), patience)

    # The queue; every method below that says "locked" is called with the lock held.

    def _update(self) -> None:
        """Locked: after any change of the queue. Finds open videos, starts openings, tells places."""
        for job in self._waiting:
            if job.opened is None and job.key not in self._openings and (cached := self.store.get(job.key)):
                job.opened, job.reused = cached, True
        self._finish_opened()
        while opening := self._next_opening():
            opening.start()
        clients = {job.client for job in self._waiting}
        self._served = {client: last for client, last in self._served.items() if client in clients}
        self._emit_positions()
        self._changed.notify_all()

    def _finish_opened(self) -> None:
        """Locked: jobs without a question are done once their video is open."""
        for job in [job for job in self._waiting if job.opened is not None and job.question is None]:
            self._waiting.remove(job)
            self._emit(job, Ready(job.opened, job.reused))

    def _next_opening(self) -> Opening | None:
        """Locked: the opening to start next, entered among the others; None: there is none, or no place."""
        waiting = [job for job in self._waiting if job.opened is None and job.key not in self._openings]
        if not waiting or self._closing:
            return None
        busy = [opening for opening in self._openings.values() if opening.stalled < STALLED_SECONDS]
        most = self.limits.openings
        if len(busy) >= most or len(self._openings) >= most * MOST_STALLED:
            return None
        wanted = self._wanted()
        if busy and len(wanted) + len(busy) >= self.limits.open_videos:
            return None
        clients = [opening.client for opening in self._openings.values()]
        job = min(waiting, key=lambda job: (clients.count(job.client), job.number))
        self.store.make_room(len(busy) + 1, wanted)
        opening = Opening(self, self._device, job.key, job.client)
        self._openings[job.key] = opening
        for job in opening.jobs():
            self._emit(job, Started(False))
        return opening

    def _wanted(self) -> set[Key]:
        """Locked: what questions wait for, or are being answered about."""
        return {job.key for job in (*self._waiting, *self._running()) if job.opened is not None}

    def _emit_positions(self) -> None:
        """Locked: to those that wait for their turn and whose place has changed."""
        for place, job in enumerate(sorted(self._waiting, key=self._order), 1):
            if job.key in self._openings and job.opened is None:
                job.place = None  # it hears of the progress
            elif job.place != place:
                job.place = place
                self._emit(job, Queued(place, self._seconds * place))

    def _order(self, job: Job) -> tuple[int, int]:
        """Sort key: clients that were served longest ago first, each client in order of arrival."""
        return self._served.get(job.client, -1), job.number

    def opening_over(self, opening: Opening, opened: CachedVideo | None, error: Exception | None) -> None:
        """Called by an opening's thread at its end."""
        with self._changed:
            jobs = opening.jobs()
            del self._openings[opening.key]
            if opened is not None:
                for job in jobs:
                    job.opened = opened
                self.store.put(opening.key, opened, self._wanted())
                for job in jobs:
                    if job.question is not None:
                        self._emit(job, Ready(opened, False))
            elif error is not None:
                for job in jobs:
                    self._waiting.remove(job)
                self._fail(jobs, error)
            self._update()

    def jobs_of(self, key: Key) -> list[Job]:
        """The waiting jobs about a video."""
        with self._changed:
            return [job for job in self._waiting if job.key == key]

    def _startable_jobs(self) -> list[Job]:
        """Locked: the jobs that may be answered together next, the first of which has waited its turn.

        None of a video that others are reading now; of one client half of all places at most.
        """
        under_way = Counter(job.client for job in self._running())
        room, together = self.limits.answers - under_way.total(), []
        most = min(room, self.limits.batch)
        reading = [group.opened for group in self._groups if group.reading]
        for job in sorted(self._waiting, key=self._order):
            if len(together) >= most:
                break
            opened = job.opened
            if opened is None or any(opened is other for other in reading):
                continue
            if together and opened is not together[0].opened:
                continue
            if under_way[job.client] < max(1, self.limits.answers // 2):
                under_way[job.client] += 1
                together.append(job)
        return together

    # Everything below runs on the service's own threads.

    def _work(self) -> None:
        while self._wait():
            with self._device.answering() as turn:
                group = self._next_batch(turn)
                try:
                    if group.jobs:
                        prefetch.while_waiting.set(group.lent)  # in this thread's context
                        self._answer(group)
                except Exception as error:
                    self._fail(group.jobs, error)
            with self._changed:
                if group.jobs:
                    self._seconds = 0.7 * self._seconds + 0.3 * turn.used / len(group.jobs)
                    self._groups.remove(group)
                self._update()

    def _wait(self) -> bool:
        """Until something can be answered, and this thread is the one to do it; False at the end."""
        with self._changed:
            while self._claimed or not self._startable_jobs():
                if self._closing:
                    return False
                if not self._changed.wait(CHECK_SECONDS if self._openings else None):
                    self._update()
            self._claimed = True
        return True

    def _next_batch(self, turn: Answering) -> Group:
        """The job whose turn it is and those it can be answered with; none where all have gone."""
        with self._changed:
            self._claimed = False
            group = Group(self._startable_jobs(), turn)
            for job in group.jobs:
                self._waiting.remove(job)
                self._served[job.client] = job.number
            if group.jobs:
                turn.cancelled = group.cancelled
                self._groups.append(group)
            self._update()
            return group

    def _answer(self, group: Group) -> None:
        """Answers jobs about one open video."""
        jobs, opened = group.jobs, group.opened
        for job in jobs:
            if job.reused:
                self._emit(job, Started(True))
                self._emit(job, Ready(opened, True))
        group.requests = turns = [self._turn(group, job) for job in jobs]
        if not all(turn.is_cancelled() for turn in turns):
            opened.clip.answer(turns)
        for job, turn in zip(jobs, turns, strict=True):
            if turn.answer is not None:
                values = (job.reused, opened.seconds, opened.thumbnails, len(jobs), turn.stopped)
                self._emit(job, Completed(turn.answer, *values))
            elif turn.error is not None:
                self._fail([job], turn.error)

    def _turn(self, group: Group, job: Job) -> GenerationRequest:
        return GenerationRequest(
            job.question,
            job.options,
            on_text=lambda text: self._emit(job, TextDelta(text)),
            is_cancelled=job.cancelled.is_set,
            progress=lambda *step: self._answering(group, job, *step),
            conversation=job.conversation,
            stop=job.stop,
        )

    def _answering(self, group: Group, job: Job, stage: str, done: int, total: int) -> None:
        """Passes progress on and ends the slice: the next one may be another group's."""
        writing = stage == DECODING_STAGE
        # A batch is also the other jobs'.
        if group.cancelled() if writing else job.cancelled.is_set():
            raise Cancelled
        self._emit(job, Progress(stage, done, total))
        if writing and group.reading:
            with self._changed:
                group.reading = False
                self._update()
        if group.turn.give():
            group.turn.take(group.check, group.is_over)

    # Telling

    def progress(self, jobs: Callable[[], list[Job]]) -> Callable[[str, int, int], None]:
        """Passes progress on, and is where long computations check for cancellation."""

        def progress(stage: str, done: int, total: int) -> None:
            heard = jobs()
            if all(job.cancelled.is_set() for job in heard):
                raise Cancelled
            for job in heard:
                self._emit(job, Progress(stage, done, total))

        return progress

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        if internal(error):
            log.error("a question could not be answered", exc_info=error)
        for job in jobs:
            if not isinstance(error, Cancelled):
                self._emit(job, Failed(error))

    def _emit(self, job: Job, event: Event) -> None:
        if job.cancelled.is_set():
            return
        if isinstance(event, Completed | Failed):
            for observer in self.observers:
                observer(event)
        job.on_event(event)


def _join_threads(threads: Sequence[threading.Thread], seconds: float | None) -> None:
    """Waits for them to end, so many seconds for all together; None: as long as it takes."""
    end = None if seconds is None else time.monotonic() + seconds
    for thread in threads:
        thread.join(None if end is None else max(0.0, end - time.monotonic()))
