"""The world of minireel: names, colours, places, the spec of a video, and its segments with their captions.

Times are in seconds, positions and sizes in shares of the frame, so that a spec can be drawn at any
size and rate. Every name below appears as it stands in questions and answers.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

# Saturated and far apart, also after 4:2:0 chroma; no place has such a colour.
COLOURS = {
    "red": (226, 24, 24),
    "green": (40, 200, 40),
    "blue": (48, 72, 248),
    "yellow": (250, 226, 20),
    "pink": (248, 60, 200),
    "cyan": (20, 216, 228),
}
ACTORS = ("circle", "square", "triangle", "diamond")  # move about for whole scenes
VISITORS = ("star", "heart", "cross", "moon", "arrow")  # appear for a moment
# 5x5 dots per letter, a row per number.
LETTERS = {
    "A": (0b01110, 0b10001, 0b11111, 0b10001, 0b10001),
    "C": (0b11111, 0b10000, 0b10000, 0b10000, 0b11111),
    "H": (0b10001, 0b10001, 0b11111, 0b10001, 0b10001),
    "L": (0b10000, 0b10000, 0b10000, 0b10000, 0b11111),
    "T": (0b11111, 0b00100, 0b00100, 0b00100, 0b00100),
    "V": (0b10001, 0b10001, 0b01010, 0b01010, 0b00100),
    "X": (0b10001, 0b01010, 0b00100, 0b01010, 0b10001),
    "Z": (0b11111, 0b00010, 0b00100, 0b01000, 0b11111),
}
PLACES = ("sea", "forest", "desert", "city", "snow", "space")  # drawn by draw.background

SEGMENT_FRAMES = 8  # frames the model compresses together

LEAD_SIZE, GUEST_SIZE, VISITOR_SIZE, CARD_SIZE = 0.38, 0.26, 0.55, 0.55

# Which worlds a split may have: (place + colour + shape of the lead) mod 6. So main place, lead colour
# and lead shape occur in every split, each as often, but no such triple occurs in two splits.
SPLITS = {"train": (0, 1, 2, 3), "validation": (4,), "test": (5,)}


@dataclasses.dataclass(frozen=True)
class Actor:
    """A shape that moves about. `path`: (cycles/s, phase) across, then down; `size`: share of the frame."""

    colour: str
    shape: str
    size: float
    path: tuple[float, float, float, float]

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclasses.dataclass(frozen=True)
class Scene:
    """One place from `start` to `end`, with the actors in it, the lowest first."""

    start: float
    end: float
    place: str
    actors: tuple[Actor, ...]


@dataclasses.dataclass(frozen=True)
class Event:
    """Something visible from `start` up to, not including, `end`, and at no other time.

    kind "visit": a `colour` `shape` of VISITORS is shown. "card": a `colour` card with the letter
    `shape`. "turn": the lead, a shape of ACTORS, has `colour` instead of its own.
    `places`: where it is at its start (x, y) and at its end, as shares of the room it has.
    """

    kind: str
    start: float
    end: float
    colour: str
    shape: str
    places: tuple[float, float, float, float] = (0.5, 0.5, 0.5, 0.5)

    @property
    def name(self) -> str:
        """The name in answers: 'red star', 'letter A', 'yellow' (the colour turned to)."""
        return {
            "visit": f"{self.colour} {self.shape}",
            "card": f"letter {self.shape}",
            "turn": self.colour,
        }[self.kind]

    @property
    def called(self) -> str:
        """The name in questions, by the colour, which is unique in its kind: 'red star', 'green card'."""
        return f"{self.colour} card" if self.kind == "card" else self.name


@dataclasses.dataclass(frozen=True)
class Spec:
    """A whole video. `stride`: seconds between frames of the standard sampling (2 fps, 1024 frames at most).

    Events lie inside segments of 8 strides, at most one in each, and clear of the segment's edges, so
    that each event is in one segment of a model that samples that way. `fps`: of the recorded video.
    `size`: height and width, pixels. `counted`: name of the visit that may repeat; None in a short video.
    """

    split: str
    index: int
    seconds: float
    fps: float
    size: int
    stride: float
    place: str
    lead: Actor
    guests: tuple[Actor, ...]
    scenes: tuple[Scene, ...]
    events: tuple[Event, ...]
    counted: str | None

    @property
    def num_frames(self) -> int:
        return max(1, round(self.seconds * self.fps))

    @property
    def segment_seconds(self) -> float:
        return SEGMENT_FRAMES * self.stride

    def scene_at(self, seconds: float) -> Scene:
        """The scene at a time; the last one from its end on."""
        return next((scene for scene in self.scenes if seconds < scene.end), self.scenes[-1])

    def event_at(self, seconds: float) -> Event | None:
        return next((event for event in self.events if event.start <= seconds < event.end), None)


@dataclasses.dataclass(frozen=True)
class Segment:
    """Segment `index` of a reel under the standard sampling."""

    spec: Spec
    index: int

    @property
    def times(self) -> np.ndarray:
        """Times of the frames, in seconds."""
        return (self.index * SEGMENT_FRAMES + np.arange(SEGMENT_FRAMES)) * self.spec.stride

    @property
    def event(self) -> Event | None:
        first, *_, last = self.times
        near = [event for event in self.spec.events if event.start <= last and first < event.end]
        return next((event for event in near if any(event.start <= t < event.end for t in self.times)), None)

    def shows(self, spans: Sequence[tuple[float, float]]) -> bool:
        """Returns whether the time of any frame is in one of the spans."""
        first, *_, last = self.times
        near = [(start, end) for start, end in spans if start <= last and first < end]
        return any(start <= t < end for start, end in near for t in self.times)

    @property
    def place(self) -> str:
        return self.spec.scene_at(self.times[4]).place

    @property
    def actors(self) -> list[str]:
        """Names of the actors, the largest first."""
        return [actor.name for actor in reversed(self.spec.scene_at(self.times[4]).actors)]


def caption(segment: Segment) -> str:
    """Returns the caption of a segment: 'sea, red circle, blue square, pink star'."""
    return caption_of(segment.spec, float(segment.times[4]), segment.event)


def caption_of(spec: Spec, seconds: float, event: Event | None) -> str:
    """Returns place and actors at a time, the largest actor first, then the event."""
    scene = spec.scene_at(seconds)
    shown = [] if event is None else [event_name(event)]
    return ", ".join([scene.place, *(actor.name for actor in reversed(scene.actors)), *shown])


def event_name(event: Event) -> str:
    """Returns the name of an event in captions, where a card has a colour and a turn belongs to the lead."""
    if event.kind == "card":
        return f"{event.colour} letter {event.shape}"
    return f"turns {event.colour}" if event.kind == "turn" else event.name
