"""One video with its questions, and collections of them as training records."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tempo_jax.data.minireel import draw, generate, texts
from tempo_jax.data.minireel.questions import FORMS, Question, check_names, questions, turns
from tempo_jax.data.minireel.world import Spec
from tempo_jax.errors import TempoError
from tempo_jax.video.synthetic import encode


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
    return Reel(spec, questions(spec))


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
    kinds: Sequence[str] = texts.KINDS,
    folder: str = "videos",
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """Yields LLaVA-style records of `count` videos, one per question and answer format, in order.

    {"id", "video", "conversations": [{"from": "human", "value": "<video>\\n…"}, {"from": "gpt", …}]};
    "video" is folder/name.mp4, where Reel.write should put it. `options`: those of make.
    Raises TempoError for an unknown form or kind.
    """
    check_names("form", forms, FORMS)
    check_names("kind", kinds, texts.KINDS)
    for index in range(start, start + count):
        yield from reel_records(make(split, index, **options), forms, kinds, folder)


def reel_records(
    reel: Reel, forms: Sequence[str] = ("choice",), kinds: Sequence[str] = texts.KINDS, folder: str = "videos"
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
