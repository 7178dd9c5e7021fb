"""Events of a question, from queued to completed or failed: plain values, sent by the service's threads."""

import dataclasses

from tempo_jax.runtime.results import Answer
from tempo_jax.serve.store import CachedVideo


@dataclasses.dataclass(frozen=True)
class Queued:
    """place: 1 is next. seconds: an estimate until its turn."""

    place: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Started:
    """Its turn has come. reused: the video is open already, else it is being opened now."""

    reused: bool


@dataclasses.dataclass(frozen=True)
class Progress:
    stage: str
    done: int
    total: int


@dataclasses.dataclass(frozen=True)
class Ready:
    """The video is open. reused: it was when the question came."""

    opened: CachedVideo
    reused: bool


@dataclasses.dataclass(frozen=True)
class TextDelta:
    text: str


@dataclasses.dataclass(frozen=True)
class Completed:
    """reused: the video was open already; open_seconds: what opening it took, now or then.

    stopped: the answer ends before one of the texts that were to end it.
    """

    answer: Answer
    reused: bool
    open_seconds: float
    thumbnails: list[bytes]
    batch: int  # questions answered together
    stopped: bool = False


@dataclasses.dataclass(frozen=True)
class Failed:
    error: Exception


Event = Queued | Started | Progress | Ready | TextDelta | Completed | Failed
