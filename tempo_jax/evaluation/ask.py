"""From questions about videos to rows: the part of a run that needs the model."""

import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from ml_collections import ConfigDict

from tempo_jax.errors import TempoError
from tempo_jax.evaluation import ahead, model, scoring
from tempo_jax.evaluation.annotations import Question
from tempo_jax.evaluation.benchmarks import Benchmark
from tempo_jax.evaluation.fallback import random_option
from tempo_jax.evaluation.rows import Row
from tempo_jax.evaluation.settings import Setting
from tempo_jax.evaluation.videos import Videos

Pair = tuple[Question, Setting]
CUT, DAMAGED = "is cut short", "is damaged"  # in the warnings of video files
USAGE = ("frames", "segments", "visual_tokens", "tokens_per_frame", "prompt_tokens", "new_tokens")


class Asker:
    """Loads the model when it is first needed."""

    def __init__(self, config: ConfigDict, benchmark: Benchmark, videos: Videos):
        self.config, self.benchmark, self.videos = config, benchmark, videos

    def rows(self, pairs: Sequence[Pair]) -> Iterator[Row]:
        """A row for every pair, those of one video and number of frames together."""
        readings: list[tuple[Path, list[Pair]]] = []
        for (video, _), some in groupby(_in_readings(pairs), key=_reading):
            together = list(some)
            try:
                readings.append((self.videos.find(video), together))
            except TempoError as error:
                yield from (self._failed(*pair, str(error)) for pair in together)
        if not readings:
            return
        self.tempo = model.load(self.config)
        jobs = [(path, self._sampling(some[0][1])) for path, some in readings]
        videos = ahead.opened(jobs, self.config.workers, self.config.ahead_mib << 20)
        for (_, some), found in zip(readings, videos, strict=True):
            yield from self._video(found, some)

    def _sampling(self, setting: Setting) -> ahead.Sampling:
        config = self.config
        return ahead.Sampling(config.fps, config.min_frames, setting.max_frames, self.tempo.config.video)

    def _video(self, found: ahead.Opened, pairs: Sequence[Pair]) -> Iterator[Row]:
        """The rows of one reading of a video."""
        error = found.error or next((w for w in getattr(found.source, "warnings", ()) if CUT in w), "")
        clip, started = None, time.perf_counter()
        try:
            if not error:
                prefix = self.config.reuse == "prefix"
                clip = self.tempo.open(found.source, keep=True, prefix_cache=prefix)
        except TempoError as broken:
            error = str(broken)
        if clip is None:
            yield from (self._failed(*pair, error) for pair in pairs)
            return
        wait = clip.waited_seconds
        spent = {
            "decode": found.decode_seconds,
            "wait": wait,
            "vision": max(0.0, time.perf_counter() - started - wait),
        }
        shared = {stage: value / len(pairs) for stage, value in spent.items()}
        damage = next((w for w in found.source.warnings if DAMAGED in w), "")
        for question, setting in pairs:
            try:
                row = self._answered(clip, question, setting)
            except TempoError as refused:
                row = self._failed(question, setting, str(refused))
            row["damage"] = damage
            row["seconds"] = shared | row["seconds"]
            yield row

    def _answered(self, clip: Any, question: Question, setting: Setting) -> Row:
        answer = clip.ask(
            question.prompt,
            max_new_tokens=self.benchmark.new_tokens,
            seed=self.config.seed,
            **self._options(setting),
        )
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
            "seconds": {
                "compress": answer.timings["compress"],
                "answer": answer.timings["answer"],
            },
        }

    def _options(self, setting: Setting) -> dict[str, Any]:
        options = setting.options()
        if options.get("strategy", "").startswith("prune-"):
            options["drop_ratio"] = self.config.drop_ratio
        return options

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
            "damage": "",
            "seconds": {},
        }

    def _failed(self, question: Question, setting: Setting, sentence: str) -> Row:
        return self._row(question, setting) | {"failure": sentence}


def _reading(pair: Pair) -> tuple[str, int]:
    """What takes a reading of the video of its own."""
    return pair[0].video, pair[1].max_frames


def _in_readings(pairs: Sequence[Pair]) -> list[Pair]:
    """Settings of one question follow each other: only the first compresses anything."""
    return sorted(pairs, key=lambda pair: (*_reading(pair), pair[0].id))


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
