"""Text-only transcripts of videos, followed by questions, to train the LLM alone.

The demo model's LLM, which is trained from scratch, has to learn to use a long context first. A sample has
the format of Tempo's prompt, with the caption of a segment in place of its memory tokens:

    <2.0 seconds> sea, red circle<6.0 seconds> sea, red circle, pink star … ⏎ When does the pink star appear?

or with the evidence of each segment, as memory tokens that keep only what the question needs:

    <2.0 seconds> nothing<6.0 seconds> here<10.0 seconds> nothing … ⏎ When does the pink star appear?
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tempo_jax.data.minireel import generate
from tempo_jax.data.minireel.questions import KINDS, Question
from tempo_jax.data.minireel.reel import (
    ReelSource,
    check_forms,
    check_names,
    co_answerable,
    draw_form,
    make,
    turns,
)
from tempo_jax.data.minireel.world import Segment, Spec, caption, caption_of
from tempo_jax.data.samples import Sample
from tempo_jax.errors import TempoError
from tempo_jax.prompts import DEFAULT_QUESTION, time_tag
from tempo_jax.video import sampling
from tempo_jax.video.sampling import real_fps, sample_indices

NO_FRAMES = np.zeros((0, 1, 1, 3), np.uint8)


@dataclasses.dataclass(frozen=True)
class CaptionTextSource(ReelSource):
    """Caption transcripts with all questions of a reel in one conversation, deterministic by index.

    Questions are shuffled, each as multiple choice or free form with equal probability. Reels of up to
    `with_captions` segments are captioned first.
    """

    with_captions: int = 4

    def __getitem__(self, index: int) -> Sample:
        rng = generate.generator(self.split, index, 3)
        reel = make(self.split, index, seconds=float(rng.choice(self.seconds)))
        conversation_ = conversation(reel.questions, rng)
        text = caption_transcript(reel.spec)
        if reel.spec.seconds <= self.with_captions * reel.spec.segment_seconds:
            conversation_ = description(text) + conversation_
        conversation_[0]["value"] = f"{text}\n{conversation_[0]['value']}"
        return Sample(NO_FRAMES, None, conversation_)


@dataclasses.dataclass(frozen=True)
class EvidenceTextSource(ReelSource):
    """Evidence transcripts with a question about each reel, deterministic by index.

    Attributes:
      forms: Weights of FORMS.
      kinds: Kinds of questions, equally frequent; a reel without any gives no sample.
      num_distractors: Number of segments without evidence that are kept, drawn at random; None: all.
      max_repeats: Evidence is repeated, as memory tokens repeat it, in up to so many words; fewer where there
        is none.
      budget: Most words of a transcript, as far as whole evidence fits.
      max_turns: Most questions of a conversation, where the same evidence answers several
        (reel.co_answerable).
    """

    forms: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"worded": 0.7, "text": 0.3})
    kinds: Sequence[str] = KINDS
    num_distractors: int | None = None
    max_repeats: int = 1
    budget: int = 512
    max_turns: int = 1

    def __post_init__(self):
        super().__post_init__()
        check_forms(self.forms)
        check_names("kind", self.kinds, KINDS)
        if min(self.max_repeats, self.budget, self.max_turns) < 1:
            raise TempoError(
                "minireel needs max_repeats and budget of at least 1, and max_turns of at least 1."
            )

    def __getitem__(self, index: int) -> Sample | None:
        rng = generate.generator(self.split, index, 6)
        reel = make(self.split, index, seconds=float(rng.choice(self.seconds)))
        kinds = sorted({question.kind for question in reel.questions} & set(self.kinds))
        if not kinds:
            return None
        kind = rng.choice(kinds)
        question = rng.choice([question for question in reel.questions if question.kind == kind])
        transcript = self._evidence(reel.spec, question, rng)
        others = co_answerable(reel.spec, question, rng)[: self.max_turns - 1] if self.max_turns > 1 else []
        conversation_ = [
            turn for one in (question, *others) for turn in turns(one, draw_form(self.forms, rng))
        ]
        conversation_[0]["value"] = f"{transcript}\n{conversation_[0]['value']}"
        return Sample(NO_FRAMES, None, conversation_)

    def _evidence(self, spec: Spec, question: Question, rng: np.random.Generator) -> str:
        """Returns the evidence of the segments that have some, and of `num_distractors` others."""
        times = _segment_times(spec)
        idle = [t.index for t in times if not question.has_evidence(Segment(spec, t.index))]
        if self.num_distractors is not None:
            distractors = rng.permutation(idle)[: self.num_distractors].tolist()
            times = [t for t in times if t.index in distractors or t.index not in idle]
            idle = distractors
        if self.max_repeats == 1:
            return _transcript(spec, times, question.evidence)
        idle_words, evidence_words = self._draw_lengths(len(idle), len(times) - len(idle), rng)

        def repeated(segment: Segment) -> str:
            words = question.evidence(segment).split(" ")
            length = idle_words if segment.index in idle else evidence_words
            # Never less than the whole evidence: half of it answers nothing.
            return " ".join(np.resize(words, max(len(words), length)))

        return _transcript(spec, times, repeated)

    def _draw_lengths(self, idle: int, others: int, rng: np.random.Generator) -> tuple[int, int]:
        """Draws the words of a segment without evidence, and those of one with evidence.

        As of memory tokens, a segment without evidence gets no more words than one with evidence: at most an
        equal share of the budget. Segments with evidence share what is left. A budget of 20 words for 4
        segments without evidence and 1 with evidence, and draws of 3 and 9, give 3 and 8.
        """
        idle_words, evidence_words = sorted(rng.integers(1, self.max_repeats + 1, 2).tolist())
        idle_words = max(1, min(idle_words, self.budget // (idle + others)))
        left = self.budget - idle_words * idle
        return idle_words, max(idle_words, min(evidence_words, left // max(1, others)))


def evidence_transcript(spec: Spec, question: Question, shown: Sequence[Segment]) -> str:
    """Returns the transcript of segments, each with its time tag and evidence."""
    times = _segment_times(spec)
    return _transcript(spec, [times[segment.index] for segment in shown], question.evidence)


def caption_transcript(spec: Spec) -> str:
    """Returns the transcript of all segments under the standard sampling, with time tags and captions."""
    return _transcript(spec, _segment_times(spec), caption)


def caption_transcript_at(spec: Spec, seconds: Sequence[float]) -> str:
    """Returns the transcript of the segments that frames at these times belong to, with their captions."""
    times, moments_of = _segment_times(spec), {}
    for moment in seconds:
        index = min(int(moment / spec.segment_seconds), len(times) - 1)
        moments_of.setdefault(index, []).append(moment)

    def describe(segment: Segment) -> str:
        moments = moments_of[segment.index]
        events = (spec.event_at(moment) for moment in moments)
        return caption_of(spec, moments[0], next((e for e in events if e is not None), None))

    return _transcript(spec, [times[index] for index in moments_of], describe)


def _segment_times(spec: Spec) -> list[sampling.Segment]:
    total = spec.num_frames
    chosen = sample_indices(total, spec.fps, 2.0)
    return sampling.segments(len(chosen), real_fps(len(chosen), total, spec.fps, 2.0))


def _transcript(spec: Spec, times: Sequence[sampling.Segment], describe: Callable[[Segment], str]) -> str:
    # Words begin with a space, as in questions and answers, so that tokens are the same.
    return "".join(f"{time_tag(t.tag_seconds)} {describe(Segment(spec, t.index))}" for t in times)


def description(text: str) -> list[dict]:
    """Returns the turns that ask for a caption of every segment."""
    return [{"from": "human", "value": DEFAULT_QUESTION}, {"from": "gpt", "value": text}]


def conversation(questions, rng: np.random.Generator) -> list[dict]:
    """Returns the turns about the questions, shuffled."""
    either = {"choice": 1.0, "text": 1.0}
    order = rng.permutation(len(questions))
    return [turn for number in order for turn in turns(questions[number], draw_form(either, rng))]
