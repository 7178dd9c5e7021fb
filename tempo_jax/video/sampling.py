"""Sampling of frames, segments, and the times of tags and slices.

Reference: docs/reference/tempo.md#frame-sampling, #segmentation, #time-tags and #slice-timestamps. The
authors' weights were trained with these exact integers, so the quirks are kept: halves round to the even
integer, a clip shorter than `min_frames` repeats frames, and times count sampled frames.
"""

import dataclasses
import math

import numpy as np

from tempo_jax import fields


def check_limits(fps: float, min_frames: int, max_frames: int) -> None:
    """Checks the options of sampling; where they conflict, max_frames wins over min_frames.

    Raises:
      TempoError: One of them is of another type or out of the bounds of `fields.FIELDS`.
    """
    for name, value in (("fps", fps), ("min_frames", min_frames), ("max_frames", max_frames)):
        fields.check(name, value)


def _native_rate(native_fps: float | None, fps: float) -> float:
    """The recorded frame rate or, if it is unknown (None, 0, NaN), the target rate."""
    if native_fps is None or not math.isfinite(native_fps) or native_fps <= 0:
        return float(fps)
    return float(native_fps)


def sample_indices(
    total_frames: int,
    native_fps: float | None,
    fps: float = 2.0,
    min_frames: int = 4,
    max_frames: int = 1024,
) -> np.ndarray:
    """Indices of the frames to sample, spread evenly from the first frame to the last.

    Their number is duration x fps, clipped to min_frames..max_frames. A clip of fewer than min_frames
    frames repeats some. As in the reference implementation, a single sampled frame is the *last* one, and
    an empty or one-frame clip gives [0].

    Args:
      total_frames: frames of the video.
      native_fps: frame rate of the video; None, 0 or NaN: it is taken as recorded at `fps`.
      fps: frames to sample per second.
      min_frames: minimum number of sampled frames.
      max_frames: maximum number of sampled frames; it wins over min_frames.

    Returns:
      int64 [n], ascending, within 0..total_frames - 1.

    Raises:
      TempoError: An option of sampling is out of bounds.
    """
    check_limits(fps, min_frames, max_frames)
    total_frames = int(total_frames)
    if total_frames <= 1:
        return np.zeros(1, np.int64)
    wanted = round(total_frames / _native_rate(native_fps, fps) * fps)
    count = min(max(wanted, 1, min_frames), max_frames)
    if count == 1:
        return np.array([total_frames - 1], np.int64)
    indices = np.round(np.linspace(0, total_frames - 1, count)).astype(np.int64)
    return np.clip(indices, 0, total_frames - 1)


def real_fps(num_frames: int, total_frames: int, native_fps: float | None, fps: float = 2.0) -> float:
    """Sampled frames per second of video: num_frames / duration, not (num_frames - 1) / duration.

    A file without a rate is taken as recorded at `fps`, as in `sample_indices` (the authors' script
    divides by zero there). One frame of 30 fps video gives 30.0: it covers 1/30 s.
    """
    rate = _native_rate(native_fps, fps)
    if num_frames == total_frames:
        return rate  # n / (n / rate), without its rounding error
    return num_frames / (max(total_frames, 1) / rate)


def sample_times(
    seconds: np.ndarray, duration: float, fps: float = 2.0, min_frames: int = 4, max_frames: int = 1024
) -> np.ndarray:
    """The frames to sample of a video whose frames are not evenly spaced: evenly in time.

    `sample_indices` with time in place of frame numbers: n = duration x fps within the limits, at even
    times from the first frame to the last, and of each time the nearest frame.

    Args:
      seconds: float64 [T], times of all frames, ascending.
      duration: seconds from the first frame to the end of the last.
      fps: frames to sample per second.
      min_frames: fewest frames; some repeat where there are fewer.
      max_frames: most frames.

    Returns:
      int64 [n] frame numbers, ascending.
    """
    check_limits(fps, min_frames, max_frames)
    count = min(max(round(duration * fps), 1, min_frames), max_frames)
    if count == 1 or len(seconds) == 1:
        return np.full(1, len(seconds) - 1, np.int64)
    return nearest_frames(seconds, np.linspace(seconds[0], seconds[-1], count))


def nearest_frames(seconds: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Indices, int64, of the frames nearest to `times`; of two equally near ones the earlier."""
    after = np.clip(np.searchsorted(seconds, times), 1, max(1, len(seconds) - 1))
    before = after - 1
    if len(seconds) == 1:
        return np.zeros(len(times), np.int64)
    return np.where(times - seconds[before] <= seconds[after] - times, before, after).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Segment:
    """Up to `segment_frames` consecutive sampled frames, compressed together.

    `start`, `stop`: range of sampled frames. `start_seconds`, `end_seconds`: the span those frames
    cover. `tag_seconds`: the time of the global LLM's tag. `slice_seconds`: one time per temporal
    slice (2 frames) for the compressor's prompt.
    """

    index: int
    start: int
    stop: int
    start_seconds: float
    end_seconds: float
    tag_seconds: float
    slice_seconds: tuple[float, ...]

    @property
    def num_frames(self) -> int:
        return self.stop - self.start

    @property
    def num_slices(self) -> int:
        return len(self.slice_seconds)


def slice_count(num_frames: int) -> int:
    """Temporal slices of a segment of `num_frames` frames: ceil(n / 2)."""
    return -(-num_frames // 2)


def segment_count(num_frames: int, segment_frames: int = 8) -> int:
    """Segments of a clip of `num_frames` sampled frames: ceil(n / 8), the last one may be short."""
    return -(-num_frames // segment_frames)


def tag_seconds(index: int, fps: float, segment_frames: int = 8) -> float:
    """Time of segment `index`'s tag: (8 i + 4) / real_fps.

    The center of the nominal window, also for a short last segment; a rate of 0 or none counts as 1.
    """
    return (index * segment_frames + segment_frames / 2) / _native_rate(fps, 1.0)


def slice_seconds(index: int, slice_index: int, fps: float, segment_frames: int = 8) -> float:
    """Time of one temporal slice: (8 i + 2 j + 0.5) / real_fps, the mean of its two frames'.

    A frame repeated to fill a slice counts as the following one, so the formula has no exceptions.
    Each frame's time is rounded first, as published: at 10 fps frames 6 and 7 make 0.65 just below
    the tie, hence `<0.6 seconds>`, where 6.5 / 10 would give `<0.7 seconds>`.
    """
    first, rate = index * segment_frames + 2 * slice_index, _native_rate(fps, 1.0)
    return (first / rate + (first + 1) / rate) / 2


def segments(
    num_frames: int,
    fps: float,
    segment_frames: int = 8,
    *,
    seconds: np.ndarray | None = None,
    start_seconds: float = 0.0,
) -> list[Segment]:
    """All segments of a clip.

    Args:
      num_frames: sampled frames of the clip.
      fps: sampled frames per second (`real_fps`).
      segment_frames: frames of a segment.
      seconds: float64 [num_frames], the frames' own times where they are not evenly spaced; they then take
        the place of i / fps in every time below.
      start_seconds: of the first frame on the player's clock, added to every time; `seconds` have it already.

    Returns:
      One Segment for every `segment_frames` frames; the last one may be short.
    """
    rate = _native_rate(fps, 1.0)
    result = []
    for index in range(segment_count(num_frames, segment_frames)):
        start = index * segment_frames
        stop = min(start + segment_frames, num_frames)
        slices = range(slice_count(stop - start))
        if seconds is None:
            span = (start_seconds + start / rate, start_seconds + stop / rate)
            tag = start_seconds + tag_seconds(index, rate, segment_frames)
            times = [start_seconds + slice_seconds(index, j, rate, segment_frames) for j in slices]
        else:
            frame_times = [_frame_seconds(seconds, rate, start + k) for k in range(segment_frames + 1)]
            span = (frame_times[0], frame_times[stop - start])
            tag = frame_times[segment_frames // 2]
            times = [(frame_times[2 * j] + frame_times[2 * j + 1]) / 2 for j in slices]
        result.append(Segment(index, start, stop, *span, tag_seconds=tag, slice_seconds=tuple(times)))
    return result


def _frame_seconds(seconds: np.ndarray, rate: float, frame: int) -> float:
    """Time of a sampled frame; beyond the last one, times continue at the average rate."""
    last = len(seconds) - 1
    return float(seconds[min(frame, last)]) + max(0, frame - last) / rate


def slice_frames(num_frames: int, segment_frames: int = 8) -> np.ndarray:
    """Sampled-frame numbers of every temporal slice: int64 [slices, 2], segments in order.

    An odd last segment repeats its last frame to fill the slice; a full segment is even.
    """
    frames = np.arange(num_frames + num_frames % 2).reshape(-1, 2)
    if segment_frames % 2:
        raise ValueError("segment_frames must be even: a temporal slice is two frames")
    return np.minimum(frames, num_frames - 1)
