"""The sources of training samples: a table of kinds, each opened by name with its own fields.

    open_source(ConfigDict({"kind": "minireel", "split": "train", "count": 1000, "seconds": (16, 32)}))

A source is a random-access object: `len(source)`, and `source[i]` is a samples.Sample, always the same for
the same i, or None where there is none. It is pickled for worker processes and read by several threads at a
time. A sample's `frames` may be lazy: anything with `shape` whose items are frames, uint8 [H, W, 3]; they are
decoded when the sample's batch is made.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from tempo_jax.data.minireel.sources import (
    ClipCaptionSource,
    MinireelSource,
    SegmentEvidenceSource,
    SegmentSource,
)
from tempo_jax.data.minireel.text_sources import CaptionTextSource, EvidenceTextSource
from tempo_jax.data.samples import Sample
from tempo_jax.data.subset import Subset
from tempo_jax.errors import TempoError
from tempo_jax.utils import config_fields


class RandomAccess(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample | None: ...


def open_prepared(path: str) -> RandomAccess:
    """Opens a data set written by `python -m tempo_jax.data.prepare`."""
    from tempo_jax.data import records

    return records.open_prepared(path)


def open_part(path: str, percent: float, start: float = 0.0, stop: float = 1.0) -> RandomAccess:
    """Opens a fixed part of a prepared data set, see `subset.Subset`."""
    if not 0 < percent <= 50 or not 0 <= start < stop <= 1:
        raise TempoError(
            f"A part of a data set has percent={percent}, start={start}, stop={stop}: percent must be above "
            "0 and at most 50, and start below stop, both from 0 to 1."
        )
    return Subset(open_prepared(path), percent, start, stop)


# Kind -> function or class that opens it; its parameters are the fields of a source of this kind.
SOURCES: dict[str, Callable[..., RandomAccess]] = {
    "prepared": open_prepared,
    "prepared_part": open_part,
    "minireel": MinireelSource,
    "minireel_segments": SegmentSource,
    "minireel_clip_captions": ClipCaptionSource,
    "minireel_caption_text": CaptionTextSource,
    "minireel_evidence_text": EvidenceTextSource,
    "minireel_segment_evidence": SegmentEvidenceSource,
}


def open_source(config: Mapping[str, Any]) -> RandomAccess:
    """Opens the source that an entry of `data.sources` describes.

    Args:
      config: `kind`, the fields of that kind, and optionally `weight`, its weight in the mixture.

    Raises:
      TempoError: The kind or a field is unknown, a field is missing, or the source has no samples.
    """
    plain = config_fields.migrate_source(config.to_dict() if hasattr(config, "to_dict") else config)
    fields = {name: value for name, value in plain.items() if name not in ("kind", "weight")}
    kind = plain.get("kind")
    if kind not in SOURCES:
        raise TempoError(f"There is no data source of kind {kind!r}: choose from {', '.join(SOURCES)}.")
    allowed = inspect.signature(SOURCES[kind]).parameters
    for unknown in (name for name in fields if name not in allowed):
        raise TempoError(
            f"A data source of kind {kind!r} has no field {unknown!r}: it may have {', '.join(allowed)}."
        )
    for name, parameter in allowed.items():
        if name not in fields and parameter.default is parameter.empty:
            raise TempoError(f"A data source of kind {kind!r} needs the field {name!r}.")
    source = SOURCES[kind](**fields)
    if not len(source):
        description = ", ".join(f"{name}={value}" for name, value in fields.items())
        raise TempoError(
            f"The data source {kind} ({description}) has no samples: prepare it again or leave it out."
        )
    return source
