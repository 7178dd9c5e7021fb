"""Conversations about single segments, which teach a small VLM to look before Tempo exists.

Asked of a segment, in the very prompts the compressor uses: whether it matters to a question about the
whole video (Yes or No, the relevance prior of facts/tempo.md §3.1) and what in it does, the minimal
information that memory tokens are to hold. Both are known from the spec.
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
class PerReel:
    """`count` reels of a split, a sample from each; seconds: lengths of reels to choose from."""

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
    """Segment `index` of a reel under the standard sampling, and what it shows."""

    spec: Spec
    index: int

    @property
    def times(self) -> np.ndarray:
        """Of its frames, in seconds."""
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
        """Names, the largest first."""
        return [actor.name for actor in reversed(self.spec.scene_at(self.times[4]).actors)]


def caption(segment: Segment) -> str:
    """All there is to see: 'sea, red circle, blue square, pink star'."""
    return caption_of(segment.spec, float(segment.times[4]), segment.event)


def caption_of(spec: Spec, seconds: float, event: Event | None) -> str:
    """Place and actors at a time, the largest actor first, then the event."""
    scene = spec.scene_at(seconds)
    shown = [] if event is None else [event_name(event)]
    return ", ".join([scene.place, *(actor.name for actor in reversed(scene.actors)), *shown])


def event_name(event: Event) -> str:
    """As a caption says it; a card also has a colour, a turn is said of the lead."""
    if event.kind == "card":
        return f"{event.colour} letter {event.shape}"
    return f"turns {event.colour}" if event.kind == "turn" else event.name


def evidence(question: Question, segment: Segment) -> str:
    """What this segment contributes to the answer: 'pink star', 'sea', 'here star', 'nothing'.

    'here' is the event that the question names, with its shape or letter. Its colour is enough to know it by,
    as no other of its kind has it: comparing shapes or letters with those of a question is more than so
    small a model learned (docs/training.md §5).
    """
    event = segment.event
    if event is not None and question.asked in _NAMING and event.called == question.named:
        return f"{segment.place if question.asked == 'place' else HERE} {event.shape}"
    return " and ".join(_parts(question, segment)) if matters(question, segment) else NOTHING


def matters(question: Question, segment: Segment) -> bool:
    """Whether any of its frames shows what the answer rests on."""
    first, *_, last = segment.times
    near = [(start, end) for start, end in question.relevant_seconds if start <= last and first < end]
    return any(start <= t < end for start, end in near for t in segment.times)


def tells(question: Question, segment: Segment) -> bool:
    """Whether it contributes anything, be it that the reader has to leave it out."""
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
    return (segment.place,) if question.asked == "most_place" else segment.actors


def resembles(question: Question, segment: Segment) -> bool:
    """Whether it shows what could be mistaken for what the question is about.

    Another visit, card, or the lead, or something of the other sort in the colour that the question names.
    """
    event = segment.event
    if question.asked in ("turn", "when_turn"):
        return segment.spec.lead.name in segment.actors
    if event is None:
        return False
    if question.kind == "order":
        return event.kind == "turn"  # all that appears matters; a turn does not appear
    card = question.asked == "letter" or question.named.endswith(" card")
    same_sort = event.kind == ("card" if card else "visit")
    return same_sort or (event.kind != "turn" and _in_its_colour(question, segment))


def _in_its_colour(question: Question, segment: Segment) -> bool:
    return segment.event is not None and segment.event.colour == question.named.split(" ")[0]


def corpus() -> Iterator[str]:
    """What is said here and nowhere else in the world."""
    yield from ("Yes", "No", NOTHING, HERE, "here and here")
    for colour in world.COLOURS:
        yield f"turns {colour}, {colour} letter"
    yield from (f"{place}, " for place in world.PLACES)
    yield from (f"{place} and {other}" for place in world.PLACES for other in world.COLOURS)


@dataclasses.dataclass(frozen=True)
class SegmentSource(PerReel):
    """Samples for task "svlm"; the same index, the same sample.

    size: of the frames, pixels. Half of the samples ask for Yes or No and the evidence, half for the
    evidence alone; the first question of half of them is about a segment that matters, where one does and
    another does not.
    questions: asked in turn about the same segment, at most; more than one costs little, as the video, most
    of a row, is there once.
    """

    size: int = 64
    questions: int = 1

    def __getitem__(self, index: int) -> Sample:
        rng = generate.generator(self.split, index, 2)
        reel = make(self.split, index, seconds=float(rng.choice(self.seconds)), size=self.size)
        asked = [reel.questions[i] for i in rng.permutation(len(reel.questions))[: self.questions]]
        segment = choose(reel, asked[0], rng)
        says = _relevant if rng.random() < 0.5 else _contributes
        turns = [turn for question in asked for turn in says(question, segment, rng)]
        conversation = (
            {"from": "system", "value": SYSTEM[says]},
            *turns,
            {"from": "human", "value": prompts.DEFAULT_QUESTION},
            {"from": "gpt", "value": caption(segment)},
        )
        frames = reel.frames(np.round(segment.times * reel.spec.fps).astype(int))
        return Sample(frames, 1 / reel.spec.stride, conversation, float(segment.times[0]))


def _query(question: Question, rng: np.random.Generator) -> str:
    """The question in words or, as likely, as multiple choice."""
    # Moments to choose from would make these rows longer than any other.
    choice = rng.random() < 0.5 and question.kind != "when"
    return question.prompt if choice else question.text


def _turn(query: str, answer: str) -> list[dict]:
    return [{"from": "human", "value": f"\nQuery:\n{query}"}, {"from": "gpt", "value": answer}]


def _relevant(question: Question, segment: Segment, rng: np.random.Generator) -> list[dict]:
    """Yes or No and then the evidence, asked as in inference: memory tokens stand where this answer does."""
    said = "Yes" if tells(question, segment) else "No"
    return _turn(_query(question, rng), f"{said}, {evidence(question, segment)}")


def _contributes(question: Question, segment: Segment, rng: np.random.Generator) -> list[dict]:
    """The evidence, asked as in training."""
    asked = prompts.training_query([{"from": "human", "value": _query(question, rng)}])
    return _turn(asked, evidence(question, segment))


SYSTEM = {_relevant: prompts.INFERENCE_SYSTEM, _contributes: prompts.TRAINING_SYSTEM}


def choose(reel: Reel, question: Question, rng: np.random.Generator) -> Segment:
    """A segment that matters or one that does not, as likely; of these, as many with an event as without.

    What does not matter and has an event is what is mistaken for what matters.
    """
    every, share = _segments(reel, question)
    wanted = np.flatnonzero((share > 0) == (rng.random() < 0.5))
    wanted = wanted if len(wanted) else np.arange(len(every))
    eventful = [index for index in wanted if every[index].event is not None]
    pool = eventful if eventful and rng.random() < 0.5 else wanted
    return every[int(rng.choice(pool))]


def contrast(reel: Reel, question: Question, rng: np.random.Generator, count: int) -> list[Segment]:
    """Up to `count` different segments, in order of time; the first of them drawn matters, if any does.

    Of the others three in four tell nothing but could be mistaken for what does (see `resembles`), as far as
    there are such segments. So a question meets in one sample what it asks about and what it does not.
    """
    every, share = _segments(reel, question)
    order = rng.permutation(len(every))
    alike = [i for i in order if resembles(question, every[i]) and not tells(question, every[i])]
    chosen = [i for i in order if share[i] > 0][:1]
    while len(chosen) < min(count, len(every)):
        left = [i for i in alike if i not in chosen]
        if rng.random() < 0.5:  # there are few of these, and they are the hardest
            left.sort(key=lambda i: not _in_its_colour(question, every[i]))
        pool = left if left and rng.random() < 0.75 else [i for i in order if i not in chosen]
        chosen.append(pool[0])
    return [every[i] for i in sorted(chosen)]


def _segments(reel: Reel, question: Question) -> tuple[list[Segment], np.ndarray]:
    """All segments, and the share of each one's frames that matters."""
    count = max(1, int(reel.spec.seconds / reel.spec.segment_seconds + 1e-6))  # whole ones
    every = [Segment(reel.spec, index) for index in range(count)]
    return every, relevance(question, [segment.times for segment in every])
