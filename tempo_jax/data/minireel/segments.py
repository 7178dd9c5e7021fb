"""Conversations about single segments, to train the compressor VLM before it is part of Tempo.

A segment is asked about in the prompts of the compressor: whether it is relevant to a question about the
whole video (Yes or No, the relevance prior of docs/reference/tempo.md#relevance), and for its evidence, the
minimal information that memory tokens have to hold. Both are known from the spec.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from tempo_jax import prompts
from tempo_jax.data.minireel import generate, world
from tempo_jax.data.minireel.questions import Question
from tempo_jax.data.minireel.reel import Reel, make, relevance
from tempo_jax.data.minireel.world import Event, Spec
from tempo_jax.data.samples import Sample


@dataclasses.dataclass(frozen=True)
class ReelSource:
    """Makes one sample of each of `count` reels of a split, with a length drawn from `seconds`."""

    split: str = "train"
    count: int = 1000
    seconds: Sequence[float] = (64,)

    def __post_init__(self):
        object.__setattr__(self, "seconds", tuple(self.seconds))

    def __len__(self) -> int:
        return self.count


NOTHING = "nothing"
HERE = "here"


@dataclasses.dataclass(frozen=True)
class Segment:
    """Segment `index` of a reel under the standard sampling."""

    spec: Spec
    index: int

    @property
    def times(self) -> np.ndarray:
        """Times of the frames, in seconds."""
        return (self.index * world.SEGMENT_FRAMES + np.arange(world.SEGMENT_FRAMES)) * self.spec.stride

    @property
    def event(self) -> Event | None:
        first, *_, last = self.times
        near = [event for event in self.spec.events if event.start <= last and first < event.end]
        return next((event for event in near if any(event.start <= t < event.end for t in self.times)), None)

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


def evidence(question: Question, segment: Segment) -> str:
    """Returns the evidence of a segment for the answer: 'pink star', 'sea', 'here star', 'nothing'.

    'here' is the event that the question names, with its shape or letter. Its colour is enough to know it by,
    as no other of its kind has it: comparing shapes or letters with those of a question is more than so
    small a model learned (docs/results/demo-model.md).
    """
    event = segment.event
    if event is not None and question.template in _NAMING and event.called == question.named:
        return f"{segment.place if question.template == 'place' else HERE} {event.shape}"
    return " and ".join(_parts(question, segment)) if is_relevant(question, segment) else NOTHING


def is_relevant(question: Question, segment: Segment) -> bool:
    """Returns whether any frame of the segment shows the evidence."""
    first, *_, last = segment.times
    near = [(start, end) for start, end in question.relevant_seconds if start <= last and first < end]
    return any(start <= t < end for start, end in near for t in segment.times)


def has_evidence(question: Question, segment: Segment) -> bool:
    """Returns whether the evidence text of the segment is not NOTHING."""
    return evidence(question, segment) != NOTHING


_NAMING = ("place", "when", "count", "after", "before")  # entries of texts.QUESTIONS that name an event


def _parts(question: Question, segment: Segment) -> Sequence[str]:
    event = segment.event
    if question.kind == "needle":
        return (question.answer_text,)
    if question.kind == "when":
        return (HERE,)
    if question.kind == "order":
        return (event.name,)
    return (segment.place,) if question.template == "most_place" else segment.actors


def is_distractor(question: Question, segment: Segment) -> bool:
    """Returns whether the segment shows something that could be mistaken for what the question is about.

    That is another visit, card, or the lead, or something of the other sort in the colour that the question
    names.
    """
    event = segment.event
    if question.template in ("turn", "when_turn"):
        return segment.spec.lead.name in segment.actors
    if event is None:
        return False
    if question.kind == "order":
        return event.kind == "turn"  # all that appears matters; a turn does not appear
    card = question.template == "letter" or question.named.endswith(" card")
    same_sort = event.kind == ("card" if card else "visit")
    return same_sort or (event.kind != "turn" and _has_named_colour(question, segment))


def _has_named_colour(question: Question, segment: Segment) -> bool:
    return segment.event is not None and segment.event.colour == question.named.split(" ")[0]


def corpus() -> Iterator[str]:
    """Yields the texts of this module, for training a tokenizer."""
    yield from ("Yes", "No", NOTHING, HERE, "here and here")
    for colour in world.COLOURS:
        yield f"turns {colour}, {colour} letter"
    yield from (f"{place}, " for place in world.PLACES)
    yield from (f"{place} and {other}" for place in world.PLACES for other in world.COLOURS)


@dataclasses.dataclass(frozen=True)
class SegmentSource(ReelSource):
    """Samples for task "compressor", deterministic by index.

    Half of the samples ask for Yes or No and the evidence, half for the evidence alone. In half of them the
    first question is about a relevant segment, where both kinds exist.

    Attributes:
      size: Height and width of frames, pixels.
      questions: Most questions about the same segment; more than one costs little, since the video, which is
        most of the prompt, occurs once.
    """

    size: int = 64
    questions: int = 1

    def __getitem__(self, index: int) -> Sample:
        rng = generate.generator(self.split, index, 2)
        reel = make(self.split, index, seconds=float(rng.choice(self.seconds)), size=self.size)
        questions = [reel.questions[i] for i in rng.permutation(len(reel.questions))[: self.questions]]
        segment = draw_segment(reel, questions[0], rng)
        make_turns = _relevant if rng.random() < 0.5 else _contributes
        turns = [turn for question in questions for turn in make_turns(question, segment, rng)]
        conversation = (
            {"from": "system", "value": SYSTEM[make_turns]},
            *turns,
            {"from": "human", "value": prompts.DEFAULT_QUESTION},
            {"from": "gpt", "value": caption(segment)},
        )
        frames = reel.frames(np.round(segment.times * reel.spec.fps).astype(int))
        return Sample(frames, 1 / reel.spec.stride, conversation, float(segment.times[0]))


def _query(question: Question, rng: np.random.Generator) -> str:
    """Returns the question in words or as multiple choice, with equal probability."""
    # Options of times would make these prompts longer than any other.
    choice = rng.random() < 0.5 and question.kind != "when"
    return question.prompt if choice else question.text


def _turn(query: str, answer: str) -> list[dict]:
    return [{"from": "human", "value": f"\nQuery:\n{query}"}, {"from": "gpt", "value": answer}]


def _relevant(question: Question, segment: Segment, rng: np.random.Generator) -> list[dict]:
    """Asks for Yes or No and the evidence in the inference prompt, where memory tokens follow."""
    verdict = "Yes" if has_evidence(question, segment) else "No"
    return _turn(_query(question, rng), f"{verdict}, {evidence(question, segment)}")


def _contributes(question: Question, segment: Segment, rng: np.random.Generator) -> list[dict]:
    """Asks for the evidence in the training prompt."""
    query = prompts.training_query([{"from": "human", "value": _query(question, rng)}])
    return _turn(query, evidence(question, segment))


SYSTEM = {_relevant: prompts.INFERENCE_SYSTEM, _contributes: prompts.TRAINING_SYSTEM}


def draw_segment(reel: Reel, question: Question, rng: np.random.Generator) -> Segment:
    """Draws a relevant segment or another one, equally likely; of either, as many with an event as without.

    Segments with an event that is not relevant are the distractors.
    """
    segments, share = _segments(reel, question)
    candidates = np.flatnonzero((share > 0) == (rng.random() < 0.5))
    candidates = candidates if len(candidates) else np.arange(len(segments))
    eventful = [index for index in candidates if segments[index].event is not None]
    pool = eventful if eventful and rng.random() < 0.5 else candidates
    return segments[int(rng.choice(pool))]


def draw_contrasting_segments(
    reel: Reel, question: Question, rng: np.random.Generator, count: int
) -> list[Segment]:
    """Draws up to `count` segments, in order of time, one of which is relevant if any is.

    Three in four of the others have no evidence but are distractors (`is_distractor`), as far as there are
    some. So a sample contrasts what a question is about with what it is not.
    """
    segments, share = _segments(reel, question)
    order = rng.permutation(len(segments))
    distractors = [
        i for i in order if is_distractor(question, segments[i]) and not has_evidence(question, segments[i])
    ]
    chosen = [i for i in order if share[i] > 0][:1]
    while len(chosen) < min(count, len(segments)):
        remaining = [i for i in distractors if i not in chosen]
        if rng.random() < 0.5:  # the hardest distractors, which are few
            remaining.sort(key=lambda i: not _has_named_colour(question, segments[i]))
        pool = remaining if remaining and rng.random() < 0.75 else [i for i in order if i not in chosen]
        chosen.append(pool[0])
    return [segments[i] for i in sorted(chosen)]


def _segments(reel: Reel, question: Question) -> tuple[list[Segment], np.ndarray]:
    """Returns all segments, and the fraction of relevant frames of each."""
    count = max(1, int(reel.spec.seconds / reel.spec.segment_seconds + 1e-6))  # complete segments
    segments = [Segment(reel.spec, index) for index in range(count)]
    return segments, relevance(question, [segment.times for segment in segments])
