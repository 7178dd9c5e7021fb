"""minireel as training data: whole reels with questions, segments with notes of them, and two-frame clips.

Frames are rendered when a batch is made of them, at the size the model sees; nothing lies on disk. A
two-frame clip (a glimpse) is a single temporal slice, a quarter of a segment, and costs about a quarter:
with its caption it is the first and cheapest phase of training a small VLM.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from tempo_jax import prompts
from tempo_jax.data import minireel
from tempo_jax.data.minireel import generate
from tempo_jax.data.minireel.questions import check_forms, check_names, draw_form, draw_question, turns
from tempo_jax.data.minireel.reel import Reel
from tempo_jax.data.minireel.segments import PerReel, caption_of, contrast
from tempo_jax.data.minireel.text_sources import description, noted, told_of
from tempo_jax.data.minireel.texts import QUESTIONS
from tempo_jax.data.minireel.world import Spec
from tempo_jax.data.samples import Sample
from tempo_jax.errors import TempoError
from tempo_jax.video.sampling import real_fps, sample_indices

NOTE = "What appears?"
_SALT = 20260409  # part of every seed, so that draws here and in minireel are independent
_MOST = dict.fromkeys(minireel.KINDS, 1) | {"needle": 3}  # questions of a kind about one reel


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
    whose events fall into segments of 8 frames at `sample_fps` a second. look_fps: what the model samples,
    0 for sample_fps; `max_frames` at most. forms: weights of FORMS.
    kinds: of questions. turns: questions in one conversation, at most. as_asked: see Sample. described:
    before the questions, of which there may be none, the assistant says of every segment what its sampled
    frames show.

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
    turns: int = 1
    as_asked: bool = False
    described: bool = False
    look_fps: float = 0.0

    def __post_init__(self):
        check_forms(self.forms)
        check_names("kind", self.kinds, minireel.KINDS)
        for seconds in self.lengths:
            self._reel(0, seconds)  # a value out of range shows before training starts

    @property
    def looked_fps(self) -> float:
        return self.look_fps or self.sample_fps

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
        first = turn if turn < len(questions) else int(rng.integers(len(questions)))
        others = [number for number in rng.permutation(len(questions)) if number != first]
        conversation = self._description(reel.spec) if self.described else []
        for number in [first, *others][: self.turns]:
            conversation += turns(questions[number], draw_form(self.forms, rng))
        sample = about(reel.spec, conversation, self.looked_fps, self.max_frames)
        return dataclasses.replace(sample, as_asked=self.as_asked)

    def _description(self, spec: minireel.Spec) -> list[dict]:
        chosen = sample_indices(spec.num_frames, spec.fps, self.looked_fps, max_frames=self.max_frames)
        return description(told_of(spec, chosen / spec.fps))


@dataclasses.dataclass(frozen=True)
class EvidenceSource(PerReel):
    """A few segments and a question, for the LLM to say what each contributes to the answer.

    The question is for the compressor alone: what the LLM says it can only have from memory tokens. One of
    the segments matters, where any does, and most others could be mistaken for it (segments.contrast).
    segments: at most. asked: see draw_question. size: height and width, pixels. The same index, the same
    sample.
    """

    segments: int = 3
    asked: Mapping[str, float] = dataclasses.field(default_factory=dict)
    size: int = 64

    def __post_init__(self):
        super().__post_init__()
        check_names("question", self.asked, QUESTIONS)
        if min(self.asked.values(), default=1) <= 0:
            raise TempoError("minireel needs weights of its questions that are above 0.")

    def __getitem__(self, index: int) -> Sample:
        rng = generate.generator(self.split, index, 9)
        spec = generate.spec(self.split, index, seconds=float(rng.choice(self.seconds)), size=self.size)
        question, reel = draw_question(spec, rng, self.asked), Reel(spec, ())
        shown = contrast(reel, question, rng, self.segments)
        frames = np.concatenate([segment.times for segment in shown])
        return Sample(
            frames=reel.frames(np.round(frames * spec.fps).astype(int)),
            real_fps=1 / spec.stride,
            conversation=[
                {"from": "human", "value": f"<image>\n{NOTE}"},
                {"from": "gpt", "value": noted(spec, question, shown)},
            ],
            start_seconds=float(frames[0]),
            as_asked=True,
            asked=question.prompt if rng.random() < 0.7 else question.text,
        )


def about(
    spec: minireel.Spec, conversation: list[dict], sample_fps: float = 2.0, max_frames: int = 1024
) -> Sample:
    """A conversation with the video in front of its first turn."""
    total = spec.num_frames
    chosen = sample_indices(total, spec.fps, sample_fps, max_frames=max_frames)
    first = conversation[0] | {"value": f"<image>\n{conversation[0]['value']}"}
    return Sample(
        frames=RenderedFrames(spec, tuple(chosen.tolist())),
        real_fps=real_fps(len(chosen), total, spec.fps, sample_fps),
        conversation=[first, *conversation[1:]],
    )


FRAMES = 2
_EVENTFUL = 0.6  # share of the glimpses that show an event


@dataclasses.dataclass(frozen=True)
class SnippetSource(PerReel):
    """Samples for task "svlm"; the same index, the same sample. size: of the frames, pixels.

    picture: of a glimpse the first frame alone, as an image, for task "xcomp".
    """

    size: int = 64
    picture: bool = False

    def __getitem__(self, index: int) -> Sample:
        rng = generate.generator(self.split, index, 4)
        spec = generate.spec(self.split, index, seconds=float(rng.choice(self.seconds)), size=self.size)
        first = _first_frame(spec, rng)
        frames = Reel(spec, ()).frames([first, first + 1][: 1 if self.picture else FRAMES])
        shown = "<image>\n" if self.picture else ""
        conversation = (
            {"from": "human", "value": shown + prompts.DEFAULT_QUESTION},
            {
                "from": "gpt",
                "value": caption_of(spec, (first + 0.5) / spec.fps, spec.event_at(first / spec.fps)),
            },
        )
        return Sample(frames, None if self.picture else spec.fps, conversation, first / spec.fps)


def _first_frame(spec: Spec, rng: np.random.Generator) -> int:
    """Of two frames on the same side of every cut: both show one scene, and one event or none."""
    while True:
        if rng.random() < _EVENTFUL:
            event = spec.events[rng.integers(len(spec.events))]
            first = int(rng.integers(int(event.start * spec.fps), int(event.end * spec.fps) + 1))
        else:
            first = int(rng.integers(spec.num_frames - 1))
        now, then = first / spec.fps, (first + 1) / spec.fps
        same = spec.event_at(now) is spec.event_at(then) and spec.scene_at(now) is spec.scene_at(then)
        if first + 1 < spec.num_frames and same:
            return first
