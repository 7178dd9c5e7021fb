"""minireel as training data: whole reels with questions, segments with their evidence, and two-frame clips.

Segments train the compressor VLM before it is part of Tempo, in its own prompts: whether one is relevant to a
question about the whole video (Yes or No, the relevance prior of docs/reference/tempo.md#relevance), and its
evidence, the minimal information that memory tokens have to hold. All is known from the spec.

Frames are rendered when their batch is made, at the model's frame size; nothing is stored. A two-frame clip
is one temporal patch, a quarter of a segment, and costs about a quarter: with its caption it is the first and
cheapest phase of training a compressor.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from tempo_jax import prompts
from tempo_jax.data import minireel
from tempo_jax.data.minireel import generate
from tempo_jax.data.minireel.questions import MOST_PER_VIDEO, TYPES, Question
from tempo_jax.data.minireel.reel import (
    Reel,
    ReelSource,
    check_forms,
    check_names,
    draw_form,
    draw_question,
    make,
    relevance,
    turns,
)
from tempo_jax.data.minireel.text_sources import caption_transcript_at, description, evidence_transcript
from tempo_jax.data.minireel.world import Segment, Spec, caption, caption_of
from tempo_jax.data.samples import Sample
from tempo_jax.errors import TempoError
from tempo_jax.video.sampling import real_fps, sample_indices

EVIDENCE_PROMPT = "What appears?"
_SALT = 20260409  # part of every seed, so that draws are independent of those of minireel


@dataclasses.dataclass(frozen=True)
class LazyFrames:
    """The sampled frames of a reel, rendered on access."""

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

    Every reel is used about equally often: each of its questions once, then some again until there are as
    many as a reel can have. Lengths, formats and repetitions are drawn by index.

    Attributes:
      split: "train", "validation" or "test".
      count: Number of reels.
      start: Index of the first reel.
      seconds: Length of each reel, or several lengths to draw from.
      size: Height and width of frames, pixels.
      fps: Frame rate of the recording.
      sample_fps: Sampling rate whose segments of 8 frames contain the events.
      max_frames: Most sampled frames.
      forms: Weights of FORMS.
      kinds: Kinds of questions.
      max_turns: Most questions of a conversation.
      inference_prompt: See Sample.
      with_captions: Whether the assistant first captions every segment, by its sampled frames; there may then
        be no questions.
      model_fps: Sampling rate of the model; 0: `sample_fps`.
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
    max_turns: int = 1
    inference_prompt: bool = False
    with_captions: bool = False
    model_fps: float = 0.0

    def __post_init__(self):
        check_forms(self.forms)
        check_names("kind", self.kinds, minireel.KINDS)
        for seconds in self.lengths:
            self._reel(0, seconds)  # values out of range are reported before training starts

    @property
    def sampled_fps(self) -> float:
        return self.model_fps or self.sample_fps

    @property
    def lengths(self) -> tuple[float, ...]:
        return tuple(self.seconds) if isinstance(self.seconds, (tuple, list)) else (self.seconds,)

    @property
    def _num_samples_per_reel(self) -> int:
        return sum(MOST_PER_VIDEO[kind] for kind in self.kinds)

    def _reel(self, number: int, seconds: float) -> minireel.Reel:
        same = {name: getattr(self, name) for name in ("size", "fps", "sample_fps", "max_frames")}
        return minireel.make(self.split, self.start + number, seconds=seconds, **same)

    def __len__(self) -> int:
        return self.count * self._num_samples_per_reel

    def __getitem__(self, index: int) -> Sample | None:
        number, turn = divmod(index, self._num_samples_per_reel)
        lengths = self.lengths
        drawn = np.random.default_rng((_SALT, self.start + number)).integers(len(lengths))
        reel = self._reel(number, lengths[drawn])
        questions = [question for question in reel.questions if question.kind in self.kinds]
        if not questions:
            return None
        rng = np.random.default_rng((_SALT, self.start + number, turn))
        first = turn if turn < len(questions) else int(rng.integers(len(questions)))
        others = [number for number in rng.permutation(len(questions)) if number != first]
        conversation = self._description(reel.spec) if self.with_captions else []
        for number in [first, *others][: self.max_turns]:
            conversation += turns(questions[number], draw_form(self.forms, rng))
        sample = video_sample(reel.spec, conversation, self.sampled_fps, self.max_frames)
        return dataclasses.replace(sample, inference_prompt=self.inference_prompt)

    def _description(self, spec: minireel.Spec) -> list[dict]:
        chosen = sample_indices(spec.num_frames, spec.fps, self.sampled_fps, max_frames=self.max_frames)
        return description(caption_transcript_at(spec, chosen / spec.fps))


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
    choice = rng.random() < 0.5 and not question.type.options_are_times
    return question.prompt if choice else question.text


def _turn(query: str, answer: str) -> list[dict]:
    return [{"from": "human", "value": f"\nQuery:\n{query}"}, {"from": "gpt", "value": answer}]


def _relevant(question: Question, segment: Segment, rng: np.random.Generator) -> list[dict]:
    """Asks for Yes or No and the evidence in the inference prompt, where memory tokens follow."""
    verdict = "Yes" if question.has_evidence(segment) else "No"
    return _turn(_query(question, rng), f"{verdict}, {question.evidence(segment)}")


def _contributes(question: Question, segment: Segment, rng: np.random.Generator) -> list[dict]:
    """Asks for the evidence in the training prompt."""
    query = prompts.training_query([{"from": "human", "value": _query(question, rng)}])
    return _turn(query, question.evidence(segment))


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

    Three in four of the others have no evidence but are distractors (`Question.is_distractor`), as far as
    there are some. So a sample contrasts what a question is about with what it is not.
    """
    segments, share = _segments(reel, question)
    order = rng.permutation(len(segments))
    distractors = [
        i for i in order if question.is_distractor(segments[i]) and not question.has_evidence(segments[i])
    ]
    chosen = [i for i in order if share[i] > 0][:1]
    while len(chosen) < min(count, len(segments)):
        remaining = [i for i in distractors if i not in chosen]
        if rng.random() < 0.5:  # the hardest distractors, which are few
            remaining.sort(key=lambda i: not question.has_named_colour(segments[i]))
        pool = remaining if remaining and rng.random() < 0.75 else [i for i in order if i not in chosen]
        chosen.append(pool[0])
    return [segments[i] for i in sorted(chosen)]


def _segments(reel: Reel, question: Question) -> tuple[list[Segment], np.ndarray]:
    """Returns all segments, and the fraction of relevant frames of each."""
    count = max(1, int(reel.spec.seconds / reel.spec.segment_seconds + 1e-6))  # complete segments
    segments = [Segment(reel.spec, index) for index in range(count)]
    return segments, relevance(question, [segment.times for segment in segments])


@dataclasses.dataclass(frozen=True)
class SegmentEvidenceSource(ReelSource):
    """A few segments and a question, for the LLM to state the evidence of each segment.

    Only the compressor gets the question, so that the LLM depends on the memory tokens. One of the segments
    is relevant, where any is, and most others are distractors (`draw_contrasting_segments`). Samples
    are deterministic by index.

    Attributes:
      segments: Most segments of a sample.
      question_weights: Weights of questions, see `draw_question`.
      size: Height and width of frames, pixels.
    """

    segments: int = 3
    question_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    size: int = 64

    def __post_init__(self):
        super().__post_init__()
        check_names("question", self.question_weights, TYPES)
        if min(self.question_weights.values(), default=1) <= 0:
            raise TempoError("minireel needs weights of its questions that are above 0.")

    def __getitem__(self, index: int) -> Sample:
        rng = generate.generator(self.split, index, 9)
        spec = generate.spec(self.split, index, seconds=float(rng.choice(self.seconds)), size=self.size)
        question, reel = draw_question(spec, rng, self.question_weights), Reel(spec, ())
        segments = draw_contrasting_segments(reel, question, rng, self.segments)
        frames = np.concatenate([segment.times for segment in segments])
        return Sample(
            frames=reel.frames(np.round(frames * spec.fps).astype(int)),
            real_fps=1 / spec.stride,
            conversation=[
                {"from": "human", "value": f"<image>\n{EVIDENCE_PROMPT}"},
                {"from": "gpt", "value": evidence_transcript(spec, question, segments)},
            ],
            start_seconds=float(frames[0]),
            inference_prompt=True,
            compressor_query=question.prompt if rng.random() < 0.7 else question.text,
        )


def video_sample(
    spec: minireel.Spec, conversation: list[dict], sample_fps: float = 2.0, max_frames: int = 1024
) -> Sample:
    """Makes a sample of a conversation, with the video in front of its first turn."""
    total = spec.num_frames
    chosen = sample_indices(total, spec.fps, sample_fps, max_frames=max_frames)
    first = conversation[0] | {"value": f"<image>\n{conversation[0]['value']}"}
    return Sample(
        frames=LazyFrames(spec, tuple(chosen.tolist())),
        real_fps=real_fps(len(chosen), total, spec.fps, sample_fps),
        conversation=[first, *conversation[1:]],
    )


FRAMES = 2
_EVENTFUL = 0.6  # fraction of the clips that show an event


@dataclasses.dataclass(frozen=True)
class ClipCaptionSource(ReelSource):
    """Captioned two-frame clips for task "compressor", deterministic by index.

    Attributes:
      size: Height and width of frames, pixels.
      picture: Whether a sample is the first frame only, as an image, for task "xcomp".
    """

    size: int = 64
    picture: bool = False

    def __getitem__(self, index: int) -> Sample:
        rng = generate.generator(self.split, index, 4)
        spec = generate.spec(self.split, index, seconds=float(rng.choice(self.seconds)), size=self.size)
        first = _first_frame(spec, rng)
        frames = Reel(spec, ()).frames([first, first + 1][: 1 if self.picture else FRAMES])
        segments = "<image>\n" if self.picture else ""
        conversation = (
            {"from": "human", "value": segments + prompts.DEFAULT_QUESTION},
            {
                "from": "gpt",
                "value": caption_of(spec, (first + 0.5) / spec.fps, spec.event_at(first / spec.fps)),
            },
        )
        return Sample(frames, None if self.picture else spec.fps, conversation, first / spec.fps)


def _first_frame(spec: Spec, rng: np.random.Generator) -> int:
    """Draws the first of two frames that show the same scene, and the same event or none."""
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
