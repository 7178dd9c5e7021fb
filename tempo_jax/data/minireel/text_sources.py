"""Videos told in words: what each segment shows, then questions, to teach the LLM alone to answer.

What the published LLM brings along, reading and reasoning over a long context, the demo model's LLM
has to learn first. A sample has the form of Tempo's prompt, with a caption where memory tokens will be:

    <2.0 seconds> sea, red circle<6.0 seconds> sea, red circle, pink star … ⏎ When does the pink star appear?

or, as memory tokens that keep only what the question needs, with notes:

    <2.0 seconds> nothing<6.0 seconds> here<10.0 seconds> nothing … ⏎ When does the pink star appear?
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from tempo_jax.data.minireel import generate
from tempo_jax.data.minireel.questions import Question, also_told, check_forms, check_names, draw_form, turns
from tempo_jax.data.minireel.reel import make
from tempo_jax.data.minireel.segments import PerReel, Segment, caption, caption_of, evidence, tells
from tempo_jax.data.minireel.texts import KINDS
from tempo_jax.data.minireel.world import Spec
from tempo_jax.data.samples import Sample
from tempo_jax.errors import TempoError
from tempo_jax.prompts import DEFAULT_QUESTION, time_tag
from tempo_jax.video import sampling
from tempo_jax.video.sampling import real_fps, sample_indices

NO_FRAMES = np.zeros((0, 1, 1, 3), np.uint8)


@dataclasses.dataclass(frozen=True)
class ToldSource(PerReel):
    """Reels in words, with all their questions in one conversation; same index, same sample.

    Questions come in any order, each as multiple choice or in words with equal chances; up to `described`
    segments, first of all everything is to be said again.
    """

    described: int = 4

    def __getitem__(self, index: int) -> Sample:
        rng = generate.generator(self.split, index, 3)
        reel = make(self.split, index, seconds=float(rng.choice(self.seconds)))
        said = conversation(reel.questions, rng)
        text = told(reel.spec)
        if reel.spec.seconds <= self.described * reel.spec.segment_seconds:
            said = description(text) + said
        said[0]["value"] = f"{text}\n{said[0]['value']}"
        return Sample(NO_FRAMES, None, said)


@dataclasses.dataclass(frozen=True)
class NotedSource(PerReel):
    """Reels with one question each and, of every segment, what it contributes to the answer.

    forms: weights of FORMS. kinds: of questions, each as often; None for a reel that has none of them.
    spare: notes of that many segments that tell nothing, drawn among them; None for all. slots: a note is
    said again and again as memory tokens do, in up to so many words, fewer where it tells nothing.
    budget: words of all notes together. turns: questions in one conversation, at most, where the same notes
    answer several (questions.also_told). The same index, the same sample.
    """

    forms: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"worded": 0.7, "text": 0.3})
    kinds: Sequence[str] = KINDS
    spare: int | None = None
    slots: int = 1
    budget: int = 512
    turns: int = 1

    def __post_init__(self):
        super().__post_init__()
        check_forms(self.forms)
        check_names("kind", self.kinds, KINDS)
        if min(self.slots, self.budget, self.turns) < 1:
            raise TempoError("Notes need slots and budget of at least 1, and one turn or more.")

    def __getitem__(self, index: int) -> Sample | None:
        rng = generate.generator(self.split, index, 6)
        reel = make(self.split, index, seconds=float(rng.choice(self.seconds)))
        kinds = sorted({question.kind for question in reel.questions} & set(self.kinds))
        if not kinds:
            return None
        kind = rng.choice(kinds)
        question = rng.choice([question for question in reel.questions if question.kind == kind])
        notes = self._notes(reel.spec, question, rng)
        more = also_told(reel.spec, question, rng)[: self.turns - 1] if self.turns > 1 else []
        said = [turn for one in (question, *more) for turn in turns(one, draw_form(self.forms, rng))]
        said[0]["value"] = f"{notes}\n{said[0]['value']}"
        return Sample(NO_FRAMES, None, said)

    def _notes(self, spec: Spec, question: Question, rng: np.random.Generator) -> str:
        """Notes of the segments that tell something, and of `spare` others."""
        times = _times(spec)
        idle = [t.index for t in times if not tells(question, Segment(spec, t.index))]
        if self.spare is not None:
            kept = rng.permutation(idle)[: self.spare].tolist()
            times = [t for t in times if t.index in kept or t.index not in idle]
            idle = kept
        if self.slots == 1:
            return _say(spec, times, partial(evidence, question))
        least, most = sorted(rng.integers(1, self.slots + 1, 2).tolist())
        least = max(1, min(least, self.budget // len(times)))
        rest = self.budget - least * len(idle)
        most = max(least, min(most, rest // max(1, len(times) - len(idle))))

        def repeated(segment: Segment) -> str:
            words = evidence(question, segment).split(" ")
            # Never less than the whole note: half of one answers nothing.
            return " ".join(np.resize(words, max(len(words), least if segment.index in idle else most)))

        return _say(spec, times, repeated)


def noted(spec: Spec, question: Question, shown: Sequence[Segment]) -> str:
    """Segments `shown`, each with its time tag and what it contributes to the answer."""
    times = _times(spec)
    return _say(spec, [times[segment.index] for segment in shown], partial(evidence, question))


def told(spec: Spec) -> str:
    """All segments under the standard sampling, each with its time tag and its caption."""
    return _say(spec, _times(spec), caption)


def told_of(spec: Spec, seconds: Sequence[float]) -> str:
    """The segments that frames at these moments belong to, each with what those frames show."""
    times, own = _times(spec), {}
    for moment in seconds:
        index = min(int(moment / spec.segment_seconds), len(times) - 1)
        own.setdefault(index, []).append(moment)

    def say(segment: Segment) -> str:
        moments = own[segment.index]
        events = (spec.event_at(moment) for moment in moments)
        return caption_of(spec, moments[0], next((e for e in events if e is not None), None))

    return _say(spec, [times[index] for index in own], say)


def _times(spec: Spec) -> list[sampling.Segment]:
    total = spec.num_frames
    chosen = sample_indices(total, spec.fps, 2.0)
    return sampling.segments(len(chosen), real_fps(len(chosen), total, spec.fps, 2.0))


def _say(spec: Spec, times: Sequence[sampling.Segment], say: Callable[[Segment], str]) -> str:
    # Words begin with a space, as in questions and answers: the same tokens there and here.
    return "".join(f"{time_tag(t.tag_seconds)} {say(Segment(spec, t.index))}" for t in times)


def description(text: str) -> list[dict]:
    """To say what there is, segment by segment."""
    return [{"from": "human", "value": DEFAULT_QUESTION}, {"from": "gpt", "value": text}]


def conversation(questions, rng: np.random.Generator) -> list[dict]:
    """Human and assistant turns about the questions, shuffled."""
    either = {"choice": 1.0, "text": 1.0}
    order = rng.permutation(len(questions))
    return [turn for number in order for turn in turns(questions[number], draw_form(either, rng))]
