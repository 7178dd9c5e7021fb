"""Clips: the videos that a session has opened, and their state. They outlive features in device memory."""

import asyncio
import contextlib
import dataclasses
import secrets
import threading
from collections import OrderedDict

from tempo_jax.serve import events
from tempo_jax.serve.errors import ApiError, api_error
from tempo_jax.serve.events import StageProgress
from tempo_jax.serve.service import Service
from tempo_jax.serve.sessions import Identity, Owner
from tempo_jax.serve.store import CachedVideo, FrameSampling, VideoFile

MOST_CLIPS = 256
MOST_OF_ONE = 16  # of one session


@dataclasses.dataclass(eq=False)
class Clip:
    """One video as one session has opened it. shown: what its page shows of the video."""

    id: str
    owner: Owner
    video: dict
    file: VideoFile
    frames: FrameSampling
    state: str = "queued"
    place: int | None = None
    progress: dict | None = None
    error: dict | None = None
    opened: "VideoSummary | None" = None
    job: events.Event | None = None  # that opens it, of its own
    pace: StageProgress = dataclasses.field(default_factory=StageProgress)
    watchers: set = dataclasses.field(default_factory=set)  # asyncio events of streams

    def as_json(self, segments: bool = True) -> dict:
        shown = self.opened
        cut = None
        if shown is not None and segments:
            cut = [
                {
                    "index": number,
                    "start_seconds": start,
                    "end_seconds": end,
                    "thumbnail_url": f"/api/clips/{self.id}/thumbnails/{number}"
                    if number < len(shown.thumbnails)
                    else None,
                }
                for number, (start, end) in enumerate(shown.spans)
            ]
        return {
            "id": self.id,
            "video": self.video,
            "frames": dataclasses.asdict(self.frames),
            "state": self.state,
            "place": self.place,
            "progress": self.progress,
            "error": self.error,
            "duration_seconds": shown and shown.duration_seconds,
            "frame_count": shown and shown.frames,
            "open_seconds": shown and shown.seconds,
            "segments": cut,
        }

    @property
    def over(self) -> bool:
        """Whether its state stays as it is."""
        return self.state in ("open", "failed")


@dataclasses.dataclass(frozen=True)
class VideoSummary:
    """The part of an opened video that is kept after its features are evicted."""

    thumbnails: list[bytes]
    frames: int
    duration_seconds: float
    seconds: float
    spans: list[tuple[float, float]]

    @classmethod
    def of(cls, opened: CachedVideo) -> "VideoSummary":
        values = {field.name: getattr(opened, field.name) for field in dataclasses.fields(cls)}
        return cls(**values)


class Clips:
    """The clips of a server, least recently used out first; used on its event loop."""

    def __init__(self, service: Service):
        self._service = service
        self._items: OrderedDict[str, Clip] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, who: Identity, video: dict, file: VideoFile, frames: FrameSampling) -> Clip:
        """The session's clip of a video sampled so, made if need be."""
        with self._lock:
            for clip in self._items.values():
                if clip.owner.session == who.session and (clip.file, clip.frames) == (file, frames):
                    self._items.move_to_end(clip.id)
                    return clip
            clip = Clip(f"clip-{secrets.token_hex(12)}", Owner.of(who), video, file, frames)
            self._items[clip.id] = clip
            mine = [c for c in self._items.values() if c.owner.session == who.session]
            surplus = mine[:-MOST_OF_ONE] or ([*self._items.values()][:-MOST_CLIPS])
            for old in surplus[:1]:
                del self._items[old.id]
        return clip

    def get(self, identity: str, who: Identity) -> Clip:
        """ApiError 404 for what is not there, or not theirs."""
        with self._lock:
            clip = self._items.get(identity)
            if clip is not None and clip.owner.admits(who):
                self._items.move_to_end(identity)
                return clip
        raise ApiError(404, "There is no such clip (any more): open the video again.", "clip_not_found")

    def items(self, who: Identity) -> list[Clip]:
        with self._lock:
            return [clip for clip in self._items.values() if clip.owner.session == who.session]

    def open(self, clip: Clip, who: Identity) -> None:
        """Queues its opening unless that is under way or done. Raises QueueFull and ShuttingDown."""
        from tempo_jax.serve.service import Job

        if clip.state == "open" or (clip.job is not None and not clip.over):
            return
        clip.state, clip.error, clip.progress = "queued", None, None
        loop = asyncio.get_running_loop()

        def on_event(event: events.Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(self.hear, clip, event)

        clip.job = Job(clip.file, None, clip.frames, self._service.model.options(), on_event, who.client)
        self._service.submit(clip.job)

    def close(self, clip: Clip) -> None:
        """Stops its opening, and lets its memory go unless others ask about the video."""
        with self._lock:
            self._items.pop(clip.id, None)
            shared = any((c.file, c.frames) == (clip.file, clip.frames) for c in self._items.values())
        if clip.job is not None:
            self._service.cancel(clip.job)
        if not shared:
            self._service.forget(clip.file, clip.frames)
        if not clip.over:
            clip.state = "failed"
            clip.error = ApiError(
                404, "The clip has been closed: open the video again.", "clip_not_found"
            ).body()["error"]
        self._changed(clip)

    def hear(self, clip: Clip, event: events.Event) -> None:
        """Updates the clip by an event of a job about it; runs on the event loop."""
        if isinstance(event, events.Queued) and clip.opened is None:
            clip.state, clip.place = "queued", event.place
        elif isinstance(event, events.Started) and not event.reused:
            clip.state, clip.place = "opening", None
        elif isinstance(event, events.Progress) and clip.state == "opening":
            clip.progress = clip.pace.of(event)
        elif isinstance(event, events.Ready):
            clip.state, clip.place, clip.progress, clip.error = "open", None, None, None
            clip.opened = VideoSummary.of(event.opened)
        elif isinstance(event, events.Failed) and not clip.over:
            clip.state, clip.place, clip.progress = "failed", None, None
            clip.error = api_error(event.error).body()["error"]
        else:
            return
        self._changed(clip)

    def _changed(self, clip: Clip) -> None:
        for watcher in clip.watchers:
            watcher.set()
