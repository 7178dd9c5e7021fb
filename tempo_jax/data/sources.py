"""Where training samples come from: a table of kinds, each opened by name with its own fields.

    open_source(ConfigDict({"kind": "minireel", "split": "train", "count": 1000, "seconds": (16, 32)}))

A source is a random-access object: `len(source)`, and `source[i]` is a collate.Sample, always the same
one for the same i, or None where there is none. It must survive pickling (for worker processes) and
being read by several threads at once. A sample's `frames` may be lazy: anything with `shape` whose
items are frames, uint8 [H, W, 3]; they are made when the sample's batch is.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from tempo_jax.data import minireel
from tempo_jax.data.collate import Sample
from tempo_jax.data.minireel.reel import FORMS
from tempo_jax.data.minireel.segments import SegmentSource
from tempo_jax.data.minireel.snippets import SnippetSource
from tempo_jax.data.minireel.told import ToldSource
from tempo_jax.errors import TempoError
from tempo_jax.video.sampling import real_fps, sample_indices

_SALT = 20260409  # part of every seed, so that draws here and in minireel are independent
_MOST = dict.fromkeys(minireel.KINDS, 1) | {"needle": 3}  # questions of a kind about one reel


class RandomAccess(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample | None: ...


@dataclasses.dataclass(frozen=True)
class RenderedFrames:
    """The sampled frames of a reel, drawn when they are looked at."""

    spec: minireel.Spec
    indices: tuple[int, ...]  # in the recording

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.indices), self.spec.size, self.spec.size, 3

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> np.ndarray:
        return minireel.render(self.spec, self.indices[position])


@dataclasses.dataclass(frozen=True)
class MinireelSource:
    """Questions about reels, rendered on the fly at the size the model sees.

    split: "train", "validation" or "test". count: of reels, `start` the first one. seconds: length of
    each, or several lengths of which each reel has one. size: height and width. fps: of the recording,
    of which the model samples `sample_fps` a second, `max_frames` at most. forms: weights of "choice"
    and "text". kinds: of questions.

    Every reel is asked about equally often: each of its questions once, then some again until there
    are as many as a reel can have; lengths, forms and repetitions are drawn by index.
    """

    split: str = "train"
    count: int = 1000
    start: int = 0
    seconds: float | tuple[float, ...] = (16, 32, 64, 128)
    size: int = 64
    fps: float = 2.0
    sample_fps: float = 2.0
    max_frames: int = 1024
    forms: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"choice": 1.0})
    kinds: tuple[str, ...] = minireel.KINDS

    def __post_init__(self):
        for what, given, known in (("form", self.forms, FORMS), ("kind", self.kinds, minireel.KINDS)):
            for unknown in (name for name in given if name not in known):
                raise TempoError(f"minireel has no {what} {unknown!r}: choose from {', '.join(known)}.")
        weights = list(self.forms.values())
        if not weights or min(weights) < 0 or sum(weights) <= 0:
            raise TempoError("minireel needs weights of its forms that are not below 0, nor all 0.")
        for seconds in self.lengths:
            self._reel(0, seconds)  # a value out of range shows before training starts

    @property
    def lengths(self) -> tuple[float, ...]:
        return tuple(self.seconds) if isinstance(self.seconds, (tuple, list)) else (self.seconds,)

    @property
    def _asked(self) -> int:
        return sum(_MOST[kind] for kind in self.kinds)

    def _reel(self, number: int, seconds: float) -> minireel.Reel:
        same = {name: getattr(self, name) for name in ("size", "fps", "sample_fps", "max_frames")}
        return minireel.make(self.split, self.start + number, seconds=seconds, **same)

    def __len__(self) -> int:
        return self.count * self._asked

    def __getitem__(self, index: int) -> Sample | None:
        number, turn = divmod(index, self._asked)
        lengths = self.lengths
        drawn = np.random.default_rng((_SALT, self.start + number)).integers(len(lengths))
        reel = self._reel(number, lengths[drawn])
        questions = [question for question in reel.questions if question.kind in self.kinds]
        if not questions:
            return None
        rng = np.random.default_rng((_SALT, self.start + number, turn))
        question = questions[turn if turn < len(questions) else rng.integers(len(questions))]
        names = sorted(self.forms)
        weights = np.array([self.forms[name] for name in names], float)
        ask, answer = FORMS[names[rng.choice(len(names), p=weights / weights.sum())]]
        total = reel.spec.num_frames
        chosen = sample_indices(total, self.fps, self.sample_fps, max_frames=self.max_frames)
        return Sample(
            frames=RenderedFrames(reel.spec, tuple(chosen.tolist())),
            real_fps=real_fps(len(chosen), total, self.fps, self.sample_fps),
            conversation=[
                {"from": "human", "value": f"<image>\n{ask(question)}"},
                {"from": "gpt", "value": answer(question)},
            ],
        )


def open_prepared(path: str) -> RandomAccess:
    """A data set written by `python -m tempo_jax.data.prepare`."""
    from tempo_jax.data import records

    return records.open_prepared(path)


# Kind -> what opens it; its parameters are the fields that a source of this kind may have.
SOURCES: dict[str, Callable[..., RandomAccess]] = {
    "prepared": open_prepared,
    "minireel": MinireelSource,
    "minireel_segments": SegmentSource,
    "minireel_snippets": SnippetSource,
    "minireel_told": ToldSource,
}


def open_source(config: Mapping[str, Any]) -> RandomAccess:
    """The source that a config describes: `kind`, that kind's fields, and `weight`, which is the mixture's.

    Raises TempoError for an unknown kind or field, a missing one, or a source without samples.
    """
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    fields = {name: value for name, value in plain.items() if name not in ("kind", "weight")}
    kind = config.get("kind")
    if kind not in SOURCES:
        raise TempoError(f"There is no data source of kind {kind!r}: choose from {', '.join(SOURCES)}.")
    allowed = inspect.signature(SOURCES[kind]).parameters
    for unknown in (name for name in fields if name not in allowed):
        raise TempoError(
            f"A data source of kind {kind!r} has no field {unknown!r}: it may have {', '.join(allowed)}."
        )
    for name, parameter in allowed.items():
        if name not in fields and parameter.default is parameter.empty:
            raise TempoError(f"A data source of kind {kind!r} needs the field {name!r}.")
    source = SOURCES[kind](**fields)
    if not len(source):
        given = ", ".join(f"{name}={value}" for name, value in fields.items())
        raise TempoError(
            f"The data source {kind} ({given}) has no samples: prepare it again or leave it out."
        )
    return source
