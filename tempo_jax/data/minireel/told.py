"""Videos told in words: what each segment shows, then questions, to teach the LLM alone to answer.

What the published LLM brings along, reading and reasoning over a long context, the demo model's LLM
has to learn first. A sample has the form of Tempo's prompt, with a caption where memory tokens will be:

    <2.0 seconds>sea, red circle<6.0 seconds>sea, red circle, pink star … ⏎ When does the pink star appear?

or, as memory tokens that keep only what the question needs, with notes:

    <2.0 seconds>nothing<6.0 seconds>here<10.0 seconds>nothing … ⏎ When does the pink star appear?
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from tempo_jax.data.collate import Sample
from tempo_jax.data.minireel import generate
from tempo_jax.data.minireel.forms import check_forms, check_names, draw_form, turns
from tempo_jax.data.minireel.per_reel import PerReel
from tempo_jax.data.minireel.questions import Question, orders
from tempo_jax.data.minireel.reel import make
from tempo_jax.data.minireel.segments import Segment, caption, evidence, matters
from tempo_jax.data.minireel.texts import KINDS
from tempo_jax.data.minireel.world import Spec
from tempo_jax.errors import TempoError
from tempo_jax.prompts import DEFAULT_QUESTION, time_tag
from tempo_jax.video import segments
from tempo_jax.video.sampling import real_fps, sample_indices

ONE_EVENT = ("needle", "when")  # kinds of questions that one event answers
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
    window: notes of that many segments in a row only, the first that matters among them: late times in few
    words, for kinds that rest on one event; 0 for all. The same index, the same sample.
    """

    forms: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"worded": 0.7, "text": 0.3})
    kinds: Sequence[str] = KINDS
    window: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_forms(self.forms)
        check_names("kind", self.kinds, KINDS)
        if self.window and not {*self.kinds} <= {*ONE_EVENT}:
            raise TempoError(f"A window of notes has all that matters only of {' and '.join(ONE_EVENT)}.")

    def __getitem__(self, index: int) -> Sample | None:
        rng = generate.generator(self.split, index, 6)
        reel = make(self.split, index, seconds=float(rng.choice(self.seconds)))
        kinds = sorted({question.kind for question in reel.questions} & set(self.kinds))
        if not kinds:
            return None
        kind = rng.choice(kinds)
        question = rng.choice([question for question in reel.questions if question.kind == kind])
        shown = _window(reel.spec, question, self.window, rng) if self.window else None
        return _about(reel.spec, question, turns(question, draw_form(self.forms, rng)), shown)


def _window(spec: Spec, question: Question, length: int, rng: np.random.Generator) -> range:
    """`length` segments or all, anywhere around the first that matters."""
    count = max(1, int(spec.seconds / spec.segment_seconds + 1e-6))
    known = next((i for i in range(count) if matters(question, Segment(spec, i))), 0)
    first = int(rng.integers(max(0, known - length + 1), known + 1))
    return range(min(first, max(0, count - length)), count)[:length]


@dataclasses.dataclass(frozen=True)
class OrderSource(PerReel):
    """Reels of which the notes say what appears, and up to `most` questions what comes after or before.

    Such questions take two steps, from one note to its neighbour, and were learned last; many about the
    same notes are cheap. forms: weights of FORMS. The same index, the same sample; None for a reel in
    which nothing has an order.
    """

    forms: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"worded": 0.3, "text": 0.7})
    most: int = 8

    def __post_init__(self):
        super().__post_init__()
        check_forms(self.forms)

    def __getitem__(self, index: int) -> Sample | None:
        rng = generate.generator(self.split, index, 8)
        spec = generate.spec(self.split, index, seconds=float(rng.choice(self.seconds)))
        questions = orders(spec)
        if not questions:
            return None
        asked = [questions[number] for number in rng.permutation(len(questions))[: self.most]]
        said = [turn for question in asked for turn in turns(question, draw_form(self.forms, rng))]
        return _about(spec, asked[0], said)


def _about(spec: Spec, question: Question, said: list[dict], shown: range | None = None) -> Sample:
    """A conversation that begins with notes of what each segment (`shown`) contributes to `question`."""
    notes = told(spec, partial(evidence, question), shown)
    said[0]["value"] = f"{notes}\n{said[0]['value']}"
    return Sample(NO_FRAMES, None, said)


def told(spec, say: Callable[[Segment], str] = caption, shown: range | None = None) -> str:
    """All segments or `shown` under the standard sampling, each with its time tag and what is said of it."""
    total = spec.num_frames
    chosen = sample_indices(total, spec.fps, 2.0)
    times = segments(len(chosen), real_fps(len(chosen), total, spec.fps, 2.0))
    times = times if shown is None else times[shown.start : shown.stop]
    return "".join(f"{time_tag(t.tag_seconds)}{say(Segment(spec, t.index))}" for t in times)


def description(text: str) -> list[dict]:
    """To say what there is, segment by segment."""
    return [{"from": "human", "value": DEFAULT_QUESTION}, {"from": "gpt", "value": text}]


def conversation(questions, rng: np.random.Generator) -> list[dict]:
    """Human and assistant turns about the questions, shuffled."""
    either = {"choice": 1.0, "text": 1.0}
    order = rng.permutation(len(questions))
    return [turn for number in order for turn in turns(questions[number], draw_form(either, rng))]
