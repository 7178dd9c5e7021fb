"""One video with those of its questions that are asked, and collections of videos as training records.

FORMS are the formats of a question and its answer: multiple choice, option text and free form.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tempo_jax.data.minireel import draw, generate
from tempo_jax.data.minireel.questions import KINDS, MOST_PER_VIDEO, Question, Video
from tempo_jax.data.minireel.world import Spec
from tempo_jax.errors import TempoError
from tempo_jax.video.synthetic import encode


def draw_questions(spec: Spec) -> tuple[Question, ...]:
    """Returns up to three needles about different events, and one question of each other possible kind."""
    rng = generate.generator(spec.split, spec.index, 1)
    video = Video(spec, rng)
    drafts = []
    for number in rng.permutation(len(video.events))[: MOST_PER_VIDEO["needle"]]:
        possible = video.drafts_about("needle", video.events[number])
        # Mostly about the event itself, sometimes about its place.
        about_event = rng.random() < 0.75
        drafts.append(possible[int(rng.integers(max(1, len(possible) - 1)))] if about_event else possible[-1])
    others = [video.drafts(kind) for kind in KINDS if kind != "needle"]
    drafts += [possible[int(rng.integers(len(possible)))] for possible in others if possible]
    return tuple(draft.finish(rng) for draft in drafts)


def draw_question(spec: Spec, rng: np.random.Generator, weights: Mapping[str, float] = {}) -> Question:
    """Draws one of all questions that the video allows.

    Args:
      spec: The video.
      rng: The random generator.
      weights: Weights of entries of questions.TYPES, by which one is drawn first; 1 by default.
    """
    video = Video(spec, rng)
    drafts = [draft for kind in KINDS for draft in video.drafts(kind)]
    names = sorted({draft.type.name for draft in drafts})
    shares = np.array([weights.get(name, 1.0) for name in names])
    name = rng.choice(names, p=shares / shares.sum())
    drafts = [draft for draft in drafts if draft.type.name == name]
    return drafts[int(rng.integers(len(drafts)))].finish(rng)


def co_answerable(spec: Spec, question: Question, rng: np.random.Generator) -> list[Question]:
    """Returns other questions that the evidence of `question` answers, in random order.

    They are about the event that `question` names, of the kinds in `QuestionType.evidence_answers`.
    """
    video = Video(spec, rng)
    drafts = [draft for kind in question.type.evidence_answers for draft in video.drafts(kind)]
    drafts = [
        draft
        for draft in drafts
        if draft.fields["name"] == question.named and draft.type is not question.type
    ]
    return [drafts[number].finish(rng) for number in rng.permutation(len(drafts))]


# Answer format -> (question of the human, answer).
FORMS: dict[str, tuple[Callable[[Question], str], Callable[[Question], str]]] = {
    "choice": (lambda question: question.prompt, lambda question: question.answer_letter),
    "text": (lambda question: question.text, lambda question: question.answer_text),
    "worded": (lambda question: question.prompt, lambda question: question.worded_answer),
}


def check_forms(weights: Mapping[str, float]) -> None:
    """Raises TempoError for an unknown format, or weights that cannot be drawn from."""
    check_names("form", weights, FORMS)
    if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
        raise TempoError("minireel needs weights of its forms that are not below 0, nor all 0.")


def check_names(category: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises TempoError for the first unknown name."""
    for unknown in (name for name in names if name not in known):
        raise TempoError(f"minireel has no {category} {unknown!r}: choose from {', '.join(known)}.")


def draw_form(weights: Mapping[str, float], rng: np.random.Generator) -> str:
    """Draws a name in FORMS."""
    names = sorted(weights)
    shares = np.array([weights[name] for name in names], float)
    return names[rng.choice(len(names), p=shares / shares.sum())]


def turns(question: Question, form: str) -> list[dict[str, str]]:
    """Returns the turns of the human and of the assistant."""
    ask, answer = FORMS[form]
    return [{"from": "human", "value": ask(question)}, {"from": "gpt", "value": answer(question)}]


@dataclasses.dataclass(frozen=True)
class Reel:
    """A video of the world with its questions."""

    spec: Spec
    questions: tuple[Question, ...]

    @property
    def name(self) -> str:
        """Unique among all videos of the default sampling: split, index and length."""
        return f"{self.spec.split}-{self.spec.index:06d}-{self.spec.seconds:g}s"

    def frames(self, indices: Iterable[int]) -> np.ndarray:
        """Renders frames of the recording at spec.fps: uint8 [n, size, size, 3].

        Raises:
          TempoError: An index is outside the video.
        """
        indices = np.asarray(list(indices), np.int64)
        if indices.size and not (indices.min() >= 0 and indices.max() < self.spec.num_frames):
            raise TempoError(
                f"{self.name} has frames 0 to {self.spec.num_frames - 1}; others were asked for."
            )
        pixels = np.empty((len(indices), self.spec.size, self.spec.size, 3), np.uint8)
        for frame, index in zip(pixels, indices):
            draw.draw(self.spec, int(index) / self.spec.fps, frame)
        return pixels

    def write(self, path: str | Path, fps: float | None = None, *, gop: int = 120, crf: int = 26) -> None:
        """Writes the video as H.264, in bounded memory; the suffix chooses the container.

        Args:
          path: The file.
          fps: Frame rate; None: spec.fps.
          gop: Frames between keyframes.
          crf: Quality of libx264; lower is better and larger.

        Raises:
          TempoError: The rate is out of range.
          OSError: The path cannot be written.
        """
        spec = self.spec if fps is None else dataclasses.replace(self.spec, fps=float(fps))
        generate.check(spec.split, spec.index, spec.seconds, spec.size, spec.fps)
        frames = (draw.render(spec, i) for i in range(spec.num_frames))
        encode(path, frames, spec.fps, gop=gop, preset="medium", options={"crf": str(crf)})


def make(split: str, index: int, **options: Any) -> Reel:
    """Makes a video with its questions; indices are unlimited.

    The same arguments always give the same reel.

    Args:
      split: A name in world.SPLITS.
      index: Index of the video.
      **options: Options of generate.spec: seconds, size, fps, sample_fps, max_frames.

    Raises:
      TempoError: A value is out of range.
    """
    spec = generate.spec(split, index, **options)
    return Reel(spec, draw_questions(spec))


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


def relevance(question: Question, segment_times: Iterable[Sequence[float]]) -> np.ndarray:
    """Returns the ground truth of relevance: the fraction of each segment's frames with evidence.

    Args:
      question: The question.
      segment_times: Times of the frames of each segment, in seconds (see `segment_times`).

    Returns:
      float32 [segments]; above 0, a segment is relevant.
    """
    spans = np.array(question.relevant_seconds, float).reshape(-1, 2)

    def share(times: Sequence[float]) -> float:
        times = np.asarray(times, float)[:, None]
        return float(((spans[:, 0] <= times) & (times < spans[:, 1])).any(1).mean()) if times.size else 0.0

    return np.array([share(times) for times in segment_times], np.float32)


def segment_times(sampled: Sequence[int], fps: float, segment_frames: int = 8) -> list[np.ndarray]:
    """Returns the times of the frames of each segment, in seconds; the last may have fewer frames.

    Args:
      sampled: Frame indices, as of video.sampling.sample_indices.
      fps: Frame rate of the recording.
      segment_frames: Frames of a segment.
    """
    times = np.asarray(sampled, float) / fps
    return [times[start : start + segment_frames] for start in range(0, len(times), segment_frames)]


def records(
    split: str,
    count: int,
    *,
    start: int = 0,
    forms: Sequence[str] = ("choice",),
    kinds: Sequence[str] = KINDS,
    folder: str = "videos",
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """Yields LLaVA-style records of `count` videos, one per question and answer format, in order.

    {"id", "video", "conversations": [{"from": "human", "value": "<video>\\n…"}, {"from": "gpt", …}]};
    "video" is folder/name.mp4, where Reel.write should put it. `options`: those of make.
    Raises TempoError for an unknown form or kind.
    """
    check_names("form", forms, FORMS)
    check_names("kind", kinds, KINDS)
    for index in range(start, start + count):
        yield from reel_records(make(split, index, **options), forms, kinds, folder)


def reel_records(
    reel: Reel, forms: Sequence[str] = ("choice",), kinds: Sequence[str] = KINDS, folder: str = "videos"
) -> Iterator[dict[str, Any]]:
    """Yields the records of one reel, see `records`."""
    for number, question in enumerate(reel.questions):
        if question.kind not in kinds:
            continue
        for form in forms:
            human, assistant = turns(question, form)
            yield {
                "id": f"{reel.name}-{number}-{form}",
                "video": f"{folder}/{reel.name}.mp4",
                "conversations": [human | {"value": f"<video>\n{human['value']}"}, assistant],
            }


def benchmark_rows(reel: Reel, folder: str = "videos") -> list[dict[str, Any]]:
    """Returns one JSON row per question: the multiple-choice record and the ground truth."""
    chosen = reel_records(reel, folder=folder)
    length = {"seconds": reel.spec.seconds}
    return [record | _fields(question) | length for record, question in zip(chosen, reel.questions)]


def _fields(question: Question) -> dict[str, Any]:
    """The fields of a question under their names in files."""
    stored = {"template": "asked"}
    return {stored.get(name, name): value for name, value in dataclasses.asdict(question).items()}
