"""The benchmarks as TFDS builders, from a local copy of each; without TensorFlow.

builder = LVBench(source="LVBench", data_dir="prepared")
builder.download_and_prepare()
questions(builder)
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tempo_jax.evaluation import annotations
from tempo_jax.evaluation.annotations import Question
from tempo_jax.evaluation.benchmarks import BENCHMARKS

SPLIT = "test"
_TEXTS = ("id", "video", "prompt", "letters", "answer")
_JSON = ("options", "groups", "spans", "also")


class Questions(tfds.core.ShardBasedBuilder, skip_registration=True):
    """A builder of the questions of one benchmark, which subclasses name."""

    VERSION = tfds.core.Version("1.0.0")
    benchmark = ""  # name in BENCHMARKS

    def __init__(self, *, source: str | Path, pattern: str = "", **kwargs: Any):
        """Reads the annotations.

        Args:
          source: The benchmark's folder.
          pattern: As in annotations.read.
          **kwargs: Arguments of tfds builders.

        Raises:
          TempoError: The annotations are missing or invalid.
        """
        self._read = annotations.read(BENCHMARKS[self.benchmark], source, pattern)
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        texts = {name: tfds.features.Text() for name in _TEXTS}
        parts = {name: tfds.features.Text(doc="JSON") for name in _JSON}
        metadata = tfds.core.MetadataDict({"fingerprint": annotations.fingerprint(self._read)})
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(texts | parts),
            metadata=metadata,
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list]:
        return {SPLIT: [self._examples]}

    def _examples(self) -> Iterator[tuple[int, dict[str, str]]]:
        for number, question in enumerate(self._read):
            texts = {name: getattr(question, name) for name in _TEXTS}
            yield number, texts | {name: json.dumps(getattr(question, name)) for name in _JSON}


class LVBench(Questions):
    benchmark = "lvbench"


class VideoMME(Questions):
    benchmark = "videomme"


class MLVU(Questions):
    benchmark = "mlvu"


class LongVideoBench(Questions):
    benchmark = "longvideobench"


class MinireelQuestions(Questions):  # TFDS registers by class name, and builders.Minireel is another class
    benchmark = "minireel"


_ALL = (LVBench, VideoMME, MLVU, LongVideoBench, MinireelQuestions)
BUILDERS = {builder.benchmark: builder for builder in _ALL}


def questions(builder: Questions) -> list[Question]:
    """Returns all questions of a prepared builder, in its order."""
    return [_question(example) for example in builder.as_data_source(SPLIT)]


def _question(example: dict[str, Any]) -> Question:
    text = {name: _text(example[name]) for name in _TEXTS}
    options, groups, spans, also = (json.loads(_text(example[name])) for name in _JSON)
    return Question(
        **text,
        options=tuple(options),
        groups={heading: tuple(names) for heading, names in groups.items()},
        spans=tuple((start, end) for start, end in spans),
        also=tuple(also),
    )


def _text(value: Any) -> str:
    value = value.item() if isinstance(value, np.ndarray) else value
    return value.decode("utf-8") if isinstance(value, bytes) else value
