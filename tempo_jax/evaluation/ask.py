"""From questions about videos to rows: the part of a run that needs the model."""

import os
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from ml_collections import ConfigDict

from tempo_jax.errors import TempoError
from tempo_jax.evaluation import ahead, rows, scoring
from tempo_jax.evaluation.annotations import Question
from tempo_jax.evaluation.benchmarks import Benchmark
from tempo_jax.evaluation.fallback import random_option
from tempo_jax.evaluation.rows import Row
from tempo_jax.evaluation.settings import Setting
from tempo_jax.evaluation.systems import SYSTEMS
from tempo_jax.evaluation.videos import Videos
from tempo_jax.runtime.session import GenerationRequest

Pair = tuple[Question, Setting]
Batch = list[Pair]  # of one reading of one video
Key = tuple[str, str]  # as rows.key
CUT, DAMAGED = "is cut short", "is damaged"  # in the warnings of video files
USAGE = ("frames", "segments", "visual_tokens", "tokens_per_frame", "prompt_tokens", "new_tokens")


def missing(pairs: Iterable[Pair], done: Container[Key]) -> list[Pair]:
    """Those that are not done."""
    return [(question, setting) for question, setting in pairs if (question.id, setting.name) not in done]


class Asker:
    """Loads the model when it is first needed."""

    def __init__(self, config: ConfigDict, benchmark: Benchmark, videos: Videos):
        self.config, self.benchmark, self.videos = config, benchmark, videos

    def rows(self, pairs: Sequence[Pair], done: Container[Key] = ()) -> Iterator[Row]:
        """A row for every pair that is not done, those of one video and number of frames together.

        pairs: all of these videos. The last bits of logits depend on what else is in a batch, so batches are
        made of all pairs: one of which some are done is asked again as a whole, and gives the same answers.
        """
        readings: list[tuple[Path, list[Batch]]] = []
        for (video, _), some in groupby(_in_readings(pairs), key=_reading):
            batches = [batch for batch in _batches(list(some), self.config.batch) if missing(batch, done)]
            if not batches:
                continue
            question = batches[0][0][0]
            try:
                readings.append((self.videos.find(video, *question.also), batches))
            except TempoError as error:
                yield from self._failures(batches, done, str(error), rows.MISSING)
        if not readings:
            return
        self.system = SYSTEMS[self.config.system](self.config)
        jobs = [(path, self.system.sampling(batches[0][0][1].max_frames)) for path, batches in readings]
        videos = ahead.opened(jobs, self.config.workers, self.config.ahead_mib << 20)
        for (path, batches), found in zip(readings, videos, strict=True):
            yield from self._video(path, found, batches, done)

    def _video(
        self, path: Path, found: ahead.Opened, batches: Sequence[Batch], done: Container[Key]
    ) -> Iterator[Row]:
        """The rows of one reading of a video."""
        error = found.error or next((w for w in getattr(found.source, "warnings", ()) if CUT in w), "")
        clip, started = None, time.perf_counter()
        try:
            if not error:
                clip = self.system.open(found.source)
        except TempoError as broken:
            error = str(broken)
        if clip is None:
            state = file_state(path)
            why = rows.UNDECODABLE if state else rows.MISSING  # moved away since it was looked for
            yield from self._failures(batches, done, error, why, state)
            return
        wait = clip.decode_wait_seconds
        spent = {
            "decode": found.decode_seconds,
            "wait": wait,
            "vision": max(0.0, time.perf_counter() - started - wait),
        }
        asked = sum(map(len, batches))
        shared = {stage: value / asked for stage, value in spent.items()}
        damage = next((w for w in found.source.warnings if DAMAGED in w), "")
        for batch in batches:
            for row in self._batch(clip, batch):
                row["damage"] = damage
                row["seconds"] = shared | row["seconds"]
                if rows.key(row) not in done:
                    yield row

    def _batch(self, clip: Any, batch: Batch) -> list[Row]:
        """Questions read one after the other, their answers written together."""
        started = time.perf_counter()
        new = self.benchmark.new_tokens
        turns = [
            GenerationRequest(question.prompt, self.system.options(setting, new))
            for question, setting in batch
        ]
        clip.answer(turns)
        compressed = sum(turn.answer.timings["compress"] for turn in turns if turn.answer)
        share = max(0.0, time.perf_counter() - started - compressed) / len(turns)
        return [self._answered(*pair, turn, share) for pair, turn in zip(batch, turns, strict=True)]

    def _answered(self, question: Question, setting: Setting, turn: GenerationRequest, seconds: float) -> Row:
        if isinstance(turn.error, TempoError):
            return self._failed(question, setting, str(turn.error), rows.REFUSED)
        if turn.error:
            raise turn.error
        answer = turn.answer
        prediction = self.benchmark.parse(answer.text, question.letters, question.options)
        guess = ""
        if not prediction and self.benchmark.random_fallback:
            guess = random_option(question, self.config.seed)
        return self._row(question, setting) | {
            "prediction": prediction,
            "random_option": guess,
            "right": (prediction or guess) == question.answer,
            "text": answer.text,
            **{name: answer.usage[name] for name in USAGE},
            "allocation": _allocation(answer),
            "auc": scoring.relevance_auc(answer.segments, question.spans),
            "warnings": list(answer.warnings),
            "seconds": {"compress": answer.timings["compress"], "answer": seconds},
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
            **dict.fromkeys(USAGE),
            "allocation": None,
            "auc": None,
            "warnings": [],
            "failure": "",
            "unanswered": "",
            "damage": "",
            "seconds": {},
        }

    def _failures(
        self, batches: Iterable[Batch], done: Container[Key], sentence: str, why: str, file: Any = None
    ) -> Iterator[Row]:
        pairs = (pair for batch in batches for pair in missing(batch, done))
        return (self._failed(*pair, sentence, why, file) for pair in pairs)

    def _failed(self, question: Question, setting: Setting, sentence: str, why: str, file: Any = None) -> Row:
        """`file`: the state of the video that could not be decoded: another one is asked about again."""
        kept = {"file": file} if file else {}
        return self._row(question, setting) | {"failure": sentence, "unanswered": why} | kept


def file_state(path: Path) -> list[int] | None:
    """Size and time of a file, by which another one of its name is known; None where there is none."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]


def _reading(pair: Pair) -> tuple[str, int]:
    """What takes a reading of the video of its own."""
    return pair[0].video, pair[1].max_frames


def _in_readings(pairs: Sequence[Pair]) -> list[Pair]:
    return sorted(pairs, key=lambda pair: (*_reading(pair), pair[0].id))


def _batches(pairs: list[Pair], size: int) -> list[Batch]:
    """`size` questions under one setting, then the same under the next: only the first compresses."""
    numbers = {name: number // size for number, name in enumerate(sorted({q.id for q, _ in pairs}))}

    def batch(pair: Pair) -> tuple[int, str]:
        return numbers[pair[0].id], pair[1].name

    return [list(some) for _, some in groupby(sorted(pairs, key=batch), key=batch)]


def _allocation(answer: Any) -> dict[str, float] | None:
    """Tokens of segments in short; None for an image."""
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
