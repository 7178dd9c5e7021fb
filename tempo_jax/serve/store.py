"""The cache of opened videos, least recently used out first. Used with the service's lock held."""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from tempo_jax.serve.limits import Limits


@dataclasses.dataclass(frozen=True)
class FrameSampling:
    """How a video is sampled, as in `Tempo.ask`; `sampling` is set per server, not per question."""

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 1024
    sampling: str = "time"


@dataclasses.dataclass(frozen=True)
class VideoFile:
    """A file on this machine: what it is called to users, and `state`, which changes when it does."""

    path: str
    name: str
    state: tuple[int, int] = (0, 0)  # modification time in ns, size in bytes


def video_file(path: Path, name: str) -> VideoFile:
    """The file as it is now, called `name`."""
    state = path.stat()
    return VideoFile(str(path), name, (state.st_mtime_ns, state.st_size))


@dataclasses.dataclass
class CachedVideo:
    """A video that the model has encoded.

    seconds: time to open it; thumbnails: JPEG files, one a segment; frames: how many were sampled;
    spans: start and end of the segments in seconds, none of an image.
    """

    clip: Any
    held_bytes: int
    seconds: float
    thumbnails: list[bytes]
    frames: int = 0
    duration_seconds: float = 0.0
    spans: list[tuple[float, float]] = dataclasses.field(default_factory=list)


Key = tuple[VideoFile, FrameSampling]


class VideoCache:
    """A cache bounded in number and in bytes of device memory."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._items: OrderedDict[Key, CachedVideo] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def held_bytes(self) -> int:
        return sum(item.held_bytes for item in list(self._items.values()))  # read from other threads too

    def get(self, key: Key) -> CachedVideo | None:
        if key in self._items:
            self._items.move_to_end(key)
        return self._items.get(key)

    def make_room(self, places: int, wanted: Collection[Key] = ()) -> None:
        """Evicts videos so that `places` more fit, except for those in `wanted`, which questions wait for."""
        for key in [key for key in self._items if key not in wanted]:
            if len(self._items) + places > self._limits.open_videos:
                del self._items[key]

    def put(self, key: Key, item: CachedVideo, wanted: Collection[Key] = ()) -> None:
        """Caches the item; evicts others while the limits are exceeded, and the item itself last."""
        self.make_room(1, wanted)
        self._items[key] = item
        eviction_order = sorted(
            self._items, key=lambda other: (other == key, other in wanted)
        )  # else as they came
        for other in eviction_order:
            if self.held_bytes <= self._limits.open_bytes and len(self._items) <= self._limits.open_videos:
                return
            del self._items[other]

    def drop(self, which: Callable[[Key], bool]) -> None:
        """Evicts the videos whose key fulfills `which`."""
        for key in list(self._items):
            if which(key):
                del self._items[key]
