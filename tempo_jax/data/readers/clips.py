"""Clip times of a record, in many spellings: used exactly, or refused by name."""

import math
import re
from collections.abc import Mapping
from typing import Any

from tempo_jax.data.preparation import BadSample

STARTS, ENDS = (
    tuple(form.format(word) for word in words for form in ("{}", "{}_time", "video_{}", "clip_{}", "{}_sec",
    "{}_secs", "{}_second", "{}_seconds", "{}_timestamp", "{}_s", "video_{}_time", "clip_{}_time", "{}Time"))
    for words in (("start", "begin"), ("end", "stop"))
)  # fmt: skip
RANGES = ("timestamp", "timestamps", "clip", "time_range", "clip_time", "segment", "span", "video_clip")
FRAMES = ("start_frame", "end_frame", "frame_start", "frame_end")  # without a frame rate
OPEN_END = 1e9  # seconds: to the video's end
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE)
_BETWEEN = re.compile(r"\s*(?:-->|–|—|~|,|\bto\b|-)\s*")


def clip_of(record: Mapping[str, Any]) -> tuple[float, float] | None:
    """Returns (start, end) in seconds of a record's clip, None for the whole video; raises BadSample."""
    ranges = {key: _range(key, value) for key in RANGES if (value := record.get(key)) is not None}
    starts = {key: clip[0] for key, clip in ranges.items()} | _read_fields(record, STARTS)
    ends = {key: clip[1] for key, clip in ranges.items()} | _read_fields(record, ENDS)
    if frame_fields := [key for key in FRAMES if record.get(key) is not None]:
        raise BadSample("clip times not understood", f"its {frame_fields[0]!r} counts frames: give seconds")
    for times in (starts, ends):
        if len(set(times.values())) > 1:
            fields = " and ".join(f"{key!r} ({value:g})" for key, value in times.items())
            raise BadSample("clip times not understood", f"its {fields} do not agree")
    if not starts and not ends:
        return None
    start, end = (next(iter(times.values()), other) for times, other in ((starts, 0.0), (ends, OPEN_END)))
    if not 0 <= start < end:
        raise BadSample("impossible clip times", f"its clip goes from {start:g} to {end:g} s")
    return None if (start, end) == (0.0, OPEN_END) else (start, end)


def _read_fields(record: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, float]:
    return {key: _seconds(key, record[key]) for key in keys if record.get(key) is not None}


def _range(key: str, value: Any) -> tuple[float, float]:
    if isinstance(value, str):
        value = _BETWEEN.split(value.strip().strip("[]()"))
    if isinstance(value, Mapping):
        value = [value.get("start"), value.get("end")]
    if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], list | tuple):
        (value,) = value
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise BadSample(
            "clip times not understood", f"its {key!r} is {value!r}: give [start, end] in seconds"
        )
    return _seconds(key, value[0]), _seconds(key, value[1])


def _seconds(key: str, value: Any) -> float:
    """Parses a number, "12.5", "12.5s", "1:02:03.5" or "02:03"."""
    if isinstance(value, str):
        text = value.strip()
        if clock := _CLOCK.fullmatch(text):
            hours, minutes, seconds = clock.groups()
            return 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds.replace(",", "."))
        text = re.sub(r"\s*s(ec(onds?)?)?$", "", text)
        number = float(text) if _NUMBER.fullmatch(text) else math.nan
    else:
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        number = float(value) if plain else math.nan
    if not math.isfinite(number):
        raise BadSample("clip times not understood", f"its {key!r} is {value!r}: give seconds or h:mm:ss")
    return number
