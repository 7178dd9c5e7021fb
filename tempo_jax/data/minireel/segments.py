"""Conversations about single segments, which teach a small VLM to look before Tempo exists.

Two things are asked of a segment, in the very prompts the compressor uses: whether it matters to a
question about the whole video (Yes or No, the relevance prior of facts/tempo.md §3.1), and what in it
does, the minimal information that memory tokens are to hold. Both are known from the spec.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from tempo_jax import prompts
from tempo_jax.data.collate import Sample
from tempo_jax.data.minireel import generate, texts, world
from tempo_jax.data.minireel.per_reel import PerReel
from tempo_jax.data.minireel.questions import Question
from tempo_jax.data.minireel.reel import Reel, make, relevance
from tempo_jax.data.minireel.world import Event, Spec

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
        return next((found for t in self.times if (found := self.spec.event_at(t))), None)

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


def evidence(question: Question, segment: Segment, matters: bool, *, choice: bool) -> str:
    """What this segment contributes to the answer; with `choice`, each part with its option's letter."""
    parts = _parts(question, segment) if matters else ()
    if not choice:
        return " and ".join(parts) or NOTHING
    letters = dict(zip(question.options, texts.LETTERS))
    marked = (f"({letters[part]}) {part}" if part in letters else part for part in parts)
    return " and ".join(marked) or NOTHING


def _parts(question: Question, segment: Segment) -> Sequence[str]:
    event = segment.event
    if question.kind == "needle":
        return (question.answer_text,)
    if question.kind in ("when", "count"):
        return (HERE,)
    if question.kind == "order":
        return (event.name,)
    return (segment.place,) if question.asked == "most_place" else segment.actors


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

    size: of the frames, pixels. Half of the samples ask for Yes or No, half for the evidence; half of them
    about a segment that matters, where one does and another does not.
    """

    size: int = 64

    def __getitem__(self, index: int) -> Sample:
        rng = generate.generator(self.split, index, 2)
        reel = make(self.split, index, seconds=float(rng.choice(self.seconds)), size=self.size)
        question = reel.questions[rng.integers(len(reel.questions))]
        segment = _choose(reel, question, rng)
        matters = relevance(question, [segment.times])[0] > 0
        # Intervals to choose from would make these rows twice as long as any other.
        choice = bool(rng.random() < 0.5) and question.kind != "when"
        query = question.prompt if choice else question.text
        if rng.random() < 0.5:
            system, asked, answer = prompts.INFERENCE_SYSTEM, query, "Yes" if matters else "No"
        else:
            turn = [{"from": "human", "value": query}]
            system, asked = prompts.TRAINING_SYSTEM, prompts.training_query(turn)
            answer = evidence(question, segment, matters, choice=choice)
        conversation = (
            {"from": "system", "value": system},
            {"from": "human", "value": f"\nQuery:\n{asked}"},
            {"from": "gpt", "value": answer},
            {"from": "human", "value": prompts.DEFAULT_QUESTION},
            {"from": "gpt", "value": caption(segment)},
        )
        frames = reel.frames(np.round(segment.times * reel.spec.fps).astype(int))
        return Sample(frames, 1 / reel.spec.stride, conversation, float(segment.times[0]))


def _choose(reel: Reel, question: Question, rng: np.random.Generator) -> Segment:
    """A segment that matters or one that does not, as likely; of these, one with an event half the time."""
    count = max(1, int(reel.spec.seconds / reel.spec.segment_seconds + 1e-6))
    every = [Segment(reel.spec, index) for index in range(count)]
    share = relevance(question, [segment.times for segment in every])
    wanted = np.flatnonzero((share > 0) == (rng.random() < 0.5))
    wanted = wanted if len(wanted) else np.arange(count)
    eventful = [index for index in wanted if every[index].event is not None]
    pool = eventful if eventful and rng.random() < 0.5 else wanted
    return every[int(rng.choice(pool))]
