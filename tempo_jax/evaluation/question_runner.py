"""Answers questions about videos with the model, one decode pass per video and frame sampling.

Answers are decoded together, those about one video with those about the next. The last bits of logits depend
on what else is decoded together, so the order and the groups of a run must not depend on what is already
answered: `schedule` makes them of all items, and whole groups are repeated.
"""

import dataclasses
import os
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from tempo_jax.errors import TempoError
from tempo_jax.evaluation import decode_workers, rows, scoring
from tempo_jax.evaluation.annotations import Question
from tempo_jax.evaluation.benchmarks import Benchmark
from tempo_jax.evaluation.rows import Row
from tempo_jax.evaluation.settings import Setting
from tempo_jax.evaluation.systems import SYSTEMS
from tempo_jax.evaluation.videos import Videos
from tempo_jax.runtime.batching import ActiveRequest
from tempo_jax.runtime.session import GenerationRequest

Key = tuple[str, str]  # (question, setting), as rows.key
TRUNCATED, DAMAGED = "is cut short", "is damaged"  # in the warnings of video files
USAGE_FIELDS = ("frames", "segments", "visual_tokens", "tokens_per_frame", "prompt_tokens", "new_tokens")


class EvalItem(NamedTuple):
    """One question under one setting."""

    question: Question
    setting: Setting

    @property
    def key(self) -> Key:
        return self.question.id, self.setting.name


class Batch(NamedTuple):
    """Items of one video and setting, which are prefilled one after the other.

    group: Number of the group that is decoded together.
    """

    items: list[EvalItem]
    group: int


@dataclasses.dataclass(frozen=True)
class DecodeJob:
    """What one decode pass over a video serves: batches that share the video and its frame sampling."""

    question: Question  # any of them, which names the video
    max_frames: int
    batches: tuple[Batch, ...]


def schedule(items: Iterable[EvalItem], batch_size: int) -> list[DecodeJob]:
    """Makes the order of a run, which depends on nothing but its items.

    Args:
      items: Every question under every setting, in any order.
      batch_size: Number of answers that are decoded together.

    Returns:
      Decode passes in order of video and number of frames. Within one, `batch_size` questions come under one
      setting and then under the next, so that only the first setting runs the compressor. Consecutive
      batches of one setting, so of several videos where there is only one, are one group as long as it has at
      most `batch_size` items: what a further setting adds are groups of its own.
    """

    def decode_key(item: EvalItem) -> tuple[str, int]:
        return item.question.video, item.setting.max_frames

    ordered = sorted(items, key=lambda item: (*decode_key(item), item.question.id))
    jobs, group, grouped, setting = [], -1, 0, None
    for (_, max_frames), of_video in groupby(ordered, key=decode_key):
        batches = []
        for one in _batches(list(of_video), batch_size):
            if one[0].setting != setting or grouped + len(one) > batch_size:
                group, grouped, setting = group + 1, 0, one[0].setting
            grouped += len(one)
            batches.append(Batch(one, group))
        jobs.append(DecodeJob(batches[0].items[0].question, max_frames, tuple(batches)))
    return jobs


def _batches(items: list[EvalItem], size: int) -> list[list[EvalItem]]:
    """Splits the items of one decode pass into batches of one setting each."""
    ids = sorted({item.question.id for item in items})
    batch_of = {question: number // size for number, question in enumerate(ids)}

    def batch_key(item: EvalItem) -> tuple[int, str]:
        return batch_of[item.question.id], item.setting.name

    return [list(batch) for _, batch in groupby(sorted(items, key=batch_key), key=batch_key)]


def pending(items: Iterable[EvalItem], done: Container[Key]) -> list[EvalItem]:
    """Returns the items that have no row yet."""
    return [item for item in items if item.key not in done]


@dataclasses.dataclass
class _Prefilled:
    """A batch whose answers are being decoded; seconds: of each of its rows so far."""

    batch: Batch
    clip: Any
    requests: list[GenerationRequest]
    joined: list[ActiveRequest]
    seconds: dict[str, float]
    damage: str


class QuestionRunner:
    """Runs the model over questions; loads it when it is first needed."""

    def __init__(self, config: ConfigDict, benchmark: Benchmark, videos: Videos):
        self.config, self.benchmark, self.videos = config, benchmark, videos
        self._group: list[_Prefilled] = []  # of one group

    def rows(self, items: Sequence[EvalItem], done: Container[Key] = ()) -> Iterator[Row]:
        """Yields a row for every item that is not done, group by group.

        A group of which some items are done is repeated as a whole: that gives the same answers.

        Args:
          items: All items of their videos, done or not.
          done: Keys of the items that have a row.
        """
        schedule_of_all = schedule(items, self.config.decode_batch)
        needed = {
            batch.group for job in schedule_of_all for batch in job.batches if pending(batch.items, done)
        }
        jobs: list[tuple[Path, DecodeJob]] = []
        for job in schedule_of_all:
            batches = tuple(batch for batch in job.batches if batch.group in needed)
            if not batches:
                continue
            job = dataclasses.replace(job, question=batches[0].items[0].question, batches=batches)
            try:
                jobs.append((self.videos.find(job.question.video, *job.question.also), job))
            except TempoError as error:
                yield from self._failures(batches, done, str(error), rows.MISSING)
        if not jobs:
            return
        self.system = SYSTEMS[self.config.system](self.config)
        videos = decode_workers.prefetch_videos(
            [(path, self.system.sampling(job.max_frames)) for path, job in jobs],
            self.config.decode_workers,
            self.config.prefetch_mib << 20,
        )
        self._group = []
        for (path, job), video in zip(jobs, videos, strict=True):
            yield from self._decode_pass(path, video, job.batches, done)
        yield from self._finish_group(done)

    def _decode_pass(
        self,
        path: Path,
        video: decode_workers.PrefetchedVideo,
        batches: Sequence[Batch],
        done: Container[Key],
    ) -> Iterator[Row]:
        """Prefills the batches of one decode pass; yields the rows of the groups that are complete."""
        error = video.error or next((w for w in getattr(video.source, "warnings", ()) if TRUNCATED in w), "")
        clip, started = None, time.perf_counter()
        try:
            if not error:
                clip = self.system.open(video.source)
        except TempoError as cause:
            error = str(cause)
        if clip is None:
            state = file_state(path)
            reason = rows.UNDECODABLE if state else rows.MISSING  # moved since it was looked for
            yield from self._failures(batches, done, error, reason, state)
            return
        wait = clip.decode_wait_seconds
        seconds = {
            "decode": video.decode_seconds,
            "wait": wait,
            "vision": max(0.0, time.perf_counter() - started - wait),
        }
        num_answers = sum(len(batch.items) for batch in batches)
        shared = {stage: value / num_answers for stage, value in seconds.items()}
        damage = next((w for w in video.source.warnings if DAMAGED in w), "")
        for batch in batches:
            if self._group and self._group[0].batch.group != batch.group:
                yield from self._finish_group(done)
            self._group.append(self._prefill(clip, batch, shared, damage))
        clip.release()  # answers of it may still be decoded, for which it needs no features

    def _prefill(self, clip: Any, batch: Batch, seconds: dict[str, float], damage: str) -> _Prefilled:
        started = time.perf_counter()
        new_tokens = self.benchmark.new_tokens
        requests = [
            GenerationRequest(question.prompt, self.system.options(setting, new_tokens))
            for question, setting in batch.items
        ]
        joined = clip.system.decode_batch.join(clip, requests)
        share = (time.perf_counter() - started) / len(requests)
        return _Prefilled(batch, clip, requests, joined, seconds | {"answer": share}, damage)

    def _finish_group(self, done: Container[Key]) -> Iterator[Row]:
        """Decodes the answers of a group, and yields their rows."""
        started, group = time.perf_counter(), self._group
        self._group = []
        joined = [active for one in group for active in one.joined]
        if joined:
            joined[0].session.system.decode_batch.finish(joined)
        share = (time.perf_counter() - started) / max(1, len(joined))
        for one in group:
            for (question, setting), request in zip(one.batch.items, one.requests, strict=True):
                row = self._answered(question, setting, request)
                compress = request.answer.timings["compress"] if request.answer else 0.0
                answer = max(0.0, one.seconds["answer"] + share - compress)
                row["damage"] = one.damage
                row["seconds"] = one.seconds | {"compress": compress, "answer": answer}
                if rows.key(row) not in done:
                    yield row

    def _answered(self, question: Question, setting: Setting, turn: GenerationRequest) -> Row:
        if isinstance(turn.error, TempoError):
            return self._failed(question, setting, str(turn.error), rows.REFUSED)
        if turn.error:
            raise turn.error
        answer = turn.answer
        prediction = self.benchmark.parse(answer.text, question.letters, question.options)
        guess = ""
        if not prediction and self.benchmark.random_fallback:
            guess = scoring.random_option(question, self.config.seed)
        return self._row(question, setting) | {
            "prediction": prediction,
            "random_option": guess,
            "right": (prediction or guess) == question.answer,
            "text": answer.text,
            **{name: answer.usage[name] for name in USAGE_FIELDS},
            "allocation": _allocation(answer),
            "auc": scoring.relevance_auc(answer.segments, question.spans),
            "warnings": list(answer.warnings),
        }

    def _row(self, question: Question, setting: Setting) -> Row:
        return {
            "question": question.id,
            "setting": setting.name,
            "video": question.video,
            "answer": question.answer,
            "prediction": "",
            "random_option": "",
            "right": False,
            "text": "",
            **dict.fromkeys(USAGE_FIELDS),
            "allocation": None,
            "auc": None,
            "warnings": [],
            "failure": "",
            "unanswered": "",
            "damage": "",
            "seconds": {},
        }

    def _failures(
        self, batches: Iterable[Batch], done: Container[Key], message: str, reason: str, file: Any = None
    ) -> Iterator[Row]:
        items = (item for batch in batches for item in pending(batch.items, done))
        return (self._failed(*item, message, reason, file) for item in items)

    def _failed(
        self, question: Question, setting: Setting, message: str, reason: str, file: Any = None
    ) -> Row:
        """Makes the row of an unanswered question.

        Args:
          question: The question.
          setting: The setting that it was asked under.
          sentence: The error message.
          why: One of rows.UNANSWERED.
          file: State of a video that cannot be decoded; when it changes, the question is asked again.
        """
        state = {"file": file} if file else {}
        return self._row(question, setting) | {"failure": message, "unanswered": reason} | state


def file_state(path: Path) -> list[int] | None:
    """Returns size and modification time of a file, None where there is none."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]


def _allocation(answer: Any) -> dict[str, float] | None:
    """Summarizes the tokens of segments; None for an image."""
    tokens = [segment.tokens for segment in answer.segments]
    if not tokens:
        return None
    floor, cap = answer.token_limits
    return {
        "least": min(tokens),
        "median": median(tokens),
        "most": max(tokens),
        "at_floor": sum(count <= floor for count in tokens),
        "at_cap": sum(count >= cap for count in tokens),
    }
