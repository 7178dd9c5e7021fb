"""Opened videos, the least recently used of which go first. Used by the worker thread only."""

import dataclasses
from collections import OrderedDict
from typing import Any

from tempo_jax.serve.limits import Limits


@dataclasses.dataclass(frozen=True)
class Frames:
    """How a video is sampled (as in `Tempo.ask`)."""

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 1024


@dataclasses.dataclass(frozen=True)
class VideoFile:
    """A file on this machine: what it is called to users, and `state`, which changes when it does."""

    path: str
    name: str
    state: tuple[int, int] = (0, 0)  # modification time in ns, size in bytes


@dataclasses.dataclass
class Opened:
    """A video the model has seen. seconds: what that took; thumbnails: JPEG files, one a segment."""

    clip: Any
    held_bytes: int
    seconds: float
    thumbnails: list[bytes]


Key = tuple[VideoFile, Frames]


class OpenVideos:
    """A store bounded in number and in bytes of device memory."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._items: OrderedDict[Key, Opened] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def held_bytes(self) -> int:
        return sum(item.held_bytes for item in list(self._items.values()))  # read from other threads too

    def get(self, key: Key) -> Opened | None:
        if key in self._items:
            self._items.move_to_end(key)
        return self._items.get(key)

    def make_room(self) -> None:
        """Leaves room for one more, so that there are never more than allowed, not even meanwhile."""
        while len(self._items) >= self._limits.open_videos:
            self._items.popitem(last=False)

    def put(self, key: Key, item: Opened) -> None:
        """Keeps the item; the others go while all are too large, and at last the item itself."""
        self.make_room()
        self._items[key] = item
        while self._items and self.held_bytes > self._limits.open_bytes:
            self._items.popitem(last=False)
