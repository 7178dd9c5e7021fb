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

from tempo_jax.data.collate import Sample
from tempo_jax.data.minireel import generate
from tempo_jax.data.minireel.forms import check_forms, check_names, draw_form, turns
from tempo_jax.data.minireel.per_reel import PerReel
from tempo_jax.data.minireel.questions import Question, about_events
from tempo_jax.data.minireel.reel import make
from tempo_jax.data.minireel.segments import NOTHING, Segment, caption, evidence, matters
from tempo_jax.data.minireel.texts import KINDS
from tempo_jax.data.minireel.world import Spec
from tempo_jax.prompts import DEFAULT_QUESTION, time_tag
from tempo_jax.video import sampling
from tempo_jax.video.sampling import real_fps, sample_indices

AGAIN = "Say it again in another order."
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
    spare: notes of that many segments that do not matter, drawn among them; None for all. The same index,
    the same sample.
    """

    forms: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"worded": 0.7, "text": 0.3})
    kinds: Sequence[str] = KINDS
    spare: int | None = None

    def __post_init__(self):
        super().__post_init__()
        check_forms(self.forms)
        check_names("kind", self.kinds, KINDS)

    def __getitem__(self, index: int) -> Sample | None:
        rng = generate.generator(self.split, index, 6)
        reel = make(self.split, index, seconds=float(rng.choice(self.seconds)))
        kinds = sorted({question.kind for question in reel.questions} & set(self.kinds))
        if not kinds:
            return None
        kind = rng.choice(kinds)
        question = rng.choice([question for question in reel.questions if question.kind == kind])
        said = turns(question, draw_form(self.forms, rng))
        return _noted(reel.spec, question, said, self.spare, rng)


@dataclasses.dataclass(frozen=True)
class EventSource(PerReel):
    """Reels of which the notes say what appears, and up to `most` questions after order and time.

    Such questions take two steps, from a note to its neighbour or its time tag, and were learned last; many
    about the same notes are cheap, and so are late times in a few notes. forms: weights of FORMS. spare: as
    in NotedSource. The same index, the same sample; None for a reel in which nothing appears once.
    """

    forms: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"worded": 0.2, "text": 0.8})
    most: int = 8
    spare: int | None = 8

    def __post_init__(self):
        super().__post_init__()
        check_forms(self.forms)

    def __getitem__(self, index: int) -> Sample | None:
        rng = generate.generator(self.split, index, 8)
        spec = generate.spec(self.split, index, seconds=float(rng.choice(self.seconds)))
        questions = about_events(spec)
        named = next((question for question in questions if question.kind == "order"), None)
        if named is None:
            return None
        asked = [questions[number] for number in rng.permutation(len(questions))[: self.most]]
        said = [turn for question in asked for turn in turns(question, draw_form(self.forms, rng))]
        return _noted(spec, named, said, self.spare, rng)


@dataclasses.dataclass(frozen=True)
class RecitedSource(PerReel):
    """Reels of which the notes say what appears, for the LLM to say again in another order.

    Either in the form of the notes, time before name, or the other way round: what was said first tells what
    must follow, and where in the notes it stands. Nearly every word of the answer is such a lesson. spare: as
    in NotedSource. The same index, the same sample; None for a reel in which nothing appears once.
    """

    spare: int | None = 4

    def __getitem__(self, index: int) -> Sample | None:
        rng = generate.generator(self.split, index, 10)
        spec = generate.spec(self.split, index, seconds=float(rng.choice(self.seconds)))
        named = next((question for question in about_events(spec) if question.kind == "order"), None)
        if named is None:
            return None
        times = _few(spec, named, self.spare, rng)
        notes = [(time_tag(t.tag_seconds), f" {evidence(named, Segment(spec, t.index))}") for t in times]
        shuffled = [notes[i] for i in rng.permutation(len(notes))]
        if rng.random() < 0.5:
            shuffled = [(name, tag) for tag, name in shuffled if name != f" {NOTHING}"]
        said = ["".join(part for note in listed for part in note) for listed in (notes, shuffled)]
        turns = [{"from": "human", "value": f"{said[0]}\n{AGAIN}"}, {"from": "gpt", "value": said[1]}]
        return Sample(NO_FRAMES, None, turns)


def _few(
    spec: Spec, question: Question, spare: int | None, rng: np.random.Generator
) -> list[sampling.Segment]:
    """Segments that matter to the question, and `spare` others."""
    times = _times(spec)
    if spare is None:
        return times
    idle = [t.index for t in times if not matters(question, Segment(spec, t.index))]
    dropped = set(rng.permutation(idle)[spare:].tolist())
    return [t for t in times if t.index not in dropped]


def _noted(
    spec: Spec, question: Question, said: list[dict], spare: int | None, rng: np.random.Generator
) -> Sample:
    """A conversation that begins with notes of what segments contribute to `question`."""
    times = _few(spec, question, spare, rng)
    said[0]["value"] = f"{_say(spec, times, partial(evidence, question))}\n{said[0]['value']}"
    return Sample(NO_FRAMES, None, said)


def noted(spec: Spec, question: Question, shown: range) -> str:
    """Segments `shown`, each with its time tag and what it contributes to the answer."""
    return _say(spec, _times(spec)[shown.start : shown.stop], partial(evidence, question))


def told(spec: Spec) -> str:
    """All segments under the standard sampling, each with its time tag and its caption."""
    return _say(spec, _times(spec), caption)


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
