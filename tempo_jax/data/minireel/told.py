"""Videos told in words: what each segment shows, then questions, to teach the LLM alone to answer.

What the published LLM brings along, reading and reasoning over a long context, the demo model's LLM
has to learn first. A sample has the form of Tempo's prompt, with a caption where memory tokens will be:

    <2.0 seconds>sea, red circle<6.0 seconds>sea, red circle, pink star … ⏎ When does the pink star appear?

or, as memory tokens that keep only what the question needs, with notes:

    <2.0 seconds>nothing<6.0 seconds>here<10.0 seconds>nothing … ⏎ When does the pink star appear?
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from tempo_jax.data.collate import Sample
from tempo_jax.data.minireel import generate
from tempo_jax.data.minireel.per_reel import PerReel
from tempo_jax.data.minireel.reel import FORMS, make
from tempo_jax.data.minireel.segments import Segment, caption, evidence
from tempo_jax.prompts import DEFAULT_QUESTION, time_tag
from tempo_jax.video import segments
from tempo_jax.video.sampling import real_fps, sample_indices

NO_FRAMES = np.zeros((0, 1, 1, 3), np.uint8)


@dataclasses.dataclass(frozen=True)
class ToldSource(PerReel):
    """Reels in words, with all their questions in one conversation; same index, same sample.

    Questions come in any order, each as multiple choice or
    in words with equal chances; up to `described` segments, first of all everything is to be said again.
    """

    described: int = 4

    def __getitem__(self, index: int) -> Sample:
        rng = generate.generator(self.split, index, 3)
        reel = make(self.split, index, seconds=float(rng.choice(self.seconds)))
        turns = conversation(reel.questions, rng)
        text = told(reel.spec)
        if reel.spec.seconds <= self.described * reel.spec.segment_seconds:
            turns = description(text) + turns
        turns[0]["value"] = f"{text}\n{turns[0]['value']}"
        return Sample(NO_FRAMES, None, turns)


@dataclasses.dataclass(frozen=True)
class NotedSource(PerReel):
    """Reels with one question each and, of every segment, what it contributes to the answer.

    forms: weights of FORMS. The same index, the same sample.
    """

    forms: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"worded": 0.7, "text": 0.3})

    def __getitem__(self, index: int) -> Sample:
        rng = generate.generator(self.split, index, 6)
        reel = make(self.split, index, seconds=float(rng.choice(self.seconds)))
        kind = rng.choice(sorted({question.kind for question in reel.questions}))  # each as often
        question = rng.choice([question for question in reel.questions if question.kind == kind])
        weights = np.array(list(self.forms.values()), float)
        ask, answer = FORMS[str(rng.choice(list(self.forms), p=weights / weights.sum()))]
        turns = [
            {"from": "human", "value": f"{told(reel.spec, partial(evidence, question))}\n{ask(question)}"},
            {"from": "gpt", "value": answer(question)},
        ]
        return Sample(NO_FRAMES, None, turns)


def told(spec, say: Callable[[Segment], str] = caption) -> str:
    """All segments under the standard sampling, each with its time tag and what is said of it."""
    total = spec.num_frames
    chosen = sample_indices(total, spec.fps, 2.0)
    times = segments(len(chosen), real_fps(len(chosen), total, spec.fps, 2.0))
    return "".join(f"{time_tag(t.tag_seconds)}{say(Segment(spec, t.index))}" for t in times)


def description(text: str) -> list[dict]:
    """To say what there is, segment by segment."""
    return [{"from": "human", "value": DEFAULT_QUESTION}, {"from": "gpt", "value": text}]


def conversation(questions, rng: np.random.Generator) -> list[dict]:
    """Human and assistant turns about the questions, shuffled."""
    turns = []
    for number in rng.permutation(len(questions)):
        ask, answer = FORMS[str(rng.choice(("choice", "text")))]
        turns.append({"from": "human", "value": ask(questions[number])})
        turns.append({"from": "gpt", "value": answer(questions[number])})
    return turns
