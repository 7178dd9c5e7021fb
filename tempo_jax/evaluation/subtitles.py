"""A video's subtitles, as LongVideoBench stores them, to the lines that a prompt begins with.

Two forms exist: {"timestamp": [start, end], "text"} in seconds, whose end may be missing, and {"start",
"end", "line"} as h:m:s. Times are those of the video that a clip was cut from.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.utils.text import clean_text

MOMENTS = 512  # evenly spread; a line that none falls into is left out (facts/xcomp.md §5.1)


def lines(path: Path, starts: float, duration: float, moments: int = MOMENTS) -> list[str]:
    """What is said in a clip that begins at `starts` and lasts `duration` seconds, in order."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
        said = [_entry(entry, starts, duration) for entry in entries]
    except FileNotFoundError as error:
        raise TempoError(
            f"There are no subtitles {path}: download them or leave config.subtitles out."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TempoError(f"{path} are no subtitles ({type(error).__name__}): download them again.") from error
    times = _moments(duration, moments)
    return [text for start, end, text in said if text and np.any((times >= start) & (times <= end))]


def _moments(duration: float, count: int) -> np.ndarray:
    """Whole seconds of a short clip, else `count` times from its beginning on."""
    return np.arange(count) * duration / count if duration > count else np.arange(int(duration))


def _entry(entry: Mapping[str, Any], starts: float, duration: float) -> tuple[float, float, str]:
    if "timestamp" in entry:
        start, end = entry["timestamp"]
        text = entry["text"]
        end = end - starts if isinstance(end, int | float) else duration
        return start - starts, end, clean_text(text).strip()
    start, end = (_seconds(entry[name]) - starts for name in ("start", "end"))
    return start, end, clean_text(entry["line"]).strip()


def _seconds(clock: str) -> float:
    hours, minutes, seconds = clock.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
