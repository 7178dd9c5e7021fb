"""The index of a video file: its frames in presentation order, and their times, jumps of the clock closed."""

import dataclasses
from pathlib import Path

import numpy as np

RATE_TOLERANCE = 0.02  # a header's rate further off the frames' own times is not believed
UNEVEN_SECONDS = 0.5  # time error of the average rate that is worth a warning
JUMP_SECONDS = 10.0  # forward, in formats whose clock may jump; FFmpeg's dts_delta_threshold
STEP_BACK_SECONDS = 0.1  # more than this backward is a jump in any format
NO_TIME = np.iinfo(np.int64).min


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Presentation times of a video's frames.

    Attributes:
      seconds: float64 [T], from the first frame on, never stepping back.
      fps: frames per second; the average where the rate varies, 0 where nothing is known.
      duration: seconds from the first frame to the end of the last one.
      constant: whether frames are at even times, each within half a frame.
      off: the most seconds by which a frame is away from i / fps; 0 where the rate is constant.
    """

    seconds: np.ndarray
    fps: float
    duration: float
    constant: bool
    off: float


def constant(count: int, fps: float) -> Timeline:
    """The timeline of `count` frames at a constant rate; all at 0 where the rate is unknown (0)."""
    return Timeline(np.arange(count) / (fps or np.inf), fps, count / fps if fps else 0.0, True, 0.0)


def timeline(
    seconds: np.ndarray,
    claimed_fps: float,
    last_seconds: float = 0.0,
    *,
    tick: float = 0.0,
    slack: float = 0.5,
    typical: bool = False,
) -> Timeline:
    """Judges frame times.

    Args:
      seconds: float64 [T] in presentation order; made non-decreasing here.
      claimed_fps: the header's rate, 0 where there is none; kept where the times agree with it.
      last_seconds: how long the last frame is shown, 0 where that is unknown.
      tick: seconds by which a time may be rounded.
      slack: of a frame, by which frames of a constant rate may be off.
      typical: the times are only roughly those of the frames: hold the header's rate against the typical
        interval, not against the average, and put frames of a constant rate at even times.

    Returns:
      The timeline from the first frame on.
    """
    count = len(seconds)
    seconds = np.maximum.accumulate(seconds - seconds[0])
    if count < 2 or seconds[-1] <= 0:
        return constant(count, claimed_fps)
    mean = (count - 1) / seconds[-1]
    usual = float(np.median(np.diff(seconds)))
    measured = 1 / usual if typical and usual else mean
    agrees = claimed_fps > 0 and abs(claimed_fps / measured - 1) <= RATE_TOLERANCE
    candidates = [claimed_fps] if agrees else []
    for fps in [*candidates, mean]:
        grid = np.arange(count) / fps
        if np.ptp(seconds - grid) / 2 <= slack / fps + tick:  # of some grid, not of the first frame's
            return Timeline(grid if typical else seconds, fps, count / fps, True, 0.0)
    if not 0 < last_seconds <= 10 * max(usual, 1 / mean):
        last_seconds = usual or 1 / mean
    duration = float(seconds[-1]) + last_seconds
    fps = count / duration
    off = float(np.abs(seconds - np.arange(count) / fps).max())
    return Timeline(seconds, fps, duration, False, off)


@dataclasses.dataclass(frozen=True)
class Jump:
    """A jump of a file's clock: its `size` in ticks, and the packet (in decoding order) it precedes."""

    packet: int
    size: int


def close_jumps(dts: np.ndarray, tick: float, may_jump: bool) -> tuple[np.ndarray, list[Jump]]:
    """Finds the jumps of a clock.

    Args:
      dts: int64 [T] decoding times of a stream's packets in file order, NO_TIME where unknown.
      tick: seconds of one unit.
      may_jump: whether the format's clock may jump forward, too (transport streams).

    Returns:
      int64 [T], what to add to each packet's times so that the clock runs on; and the jumps.
    """
    known = np.flatnonzero(dts != NO_TIME)
    offsets = np.zeros(len(dts), np.int64)
    if len(known) < 2 or not tick:
        return offsets, []
    steps = np.diff(dts[known])
    ahead = steps[steps > 0]
    usual = int(np.median(ahead)) if len(ahead) else 1
    jumped = steps * tick < -STEP_BACK_SECONDS
    if may_jump:
        jumped |= (steps * tick > JUMP_SECONDS) & (steps > 20 * usual)
    jumps = []
    for place in np.flatnonzero(jumped):
        packet, size = int(known[place + 1]), int(steps[place]) - usual
        offsets[packet:] -= size
        jumps.append(Jump(packet, size))
    return offsets, jumps


@dataclasses.dataclass
class VideoIndex:
    """A file's pictures in presentation order.

    Attributes:
      path: the file.
      stream: number of the video stream.
      pts: int64 [T] as the decoder stamps the pictures, in units of the stream's time base; may repeat or
        step back. None where the decoder does not stamp them: then pictures are known by counting.
      keyframes: int64 numbers of pictures that decoding can start from, ascending.
      timeline: when each picture is shown, from the first one on.
      start_seconds: of the first picture on the file's clock; 0 where the file starts with it.
      pixel_aspect: width of a pixel over its height.
      cut_into: whether the file may begin within a group of pictures.
      leading: packets at the file's start that give no picture, as what they refer to is not there.
      skippable: whether packets of unwanted pictures may be left undecoded.
      warnings: sentences for the user.
    """

    path: Path
    stream: int
    pts: np.ndarray | None
    keyframes: np.ndarray
    timeline: Timeline
    start_seconds: float = 0.0
    pixel_aspect: float = 1.0
    cut_into: bool = False
    leading: int = 0
    skippable: bool = True
    warnings: list[str] = dataclasses.field(default_factory=list)

    @property
    def total_frames(self) -> int:
        return len(self.timeline.seconds)

    def drop_leading(self, count: int) -> None:
        """Takes the first `count` pictures out: none of them can be decoded."""
        seconds = self.timeline.seconds[count:]
        shift = float(seconds[0])
        self.pts = self.pts[count:]
        self.keyframes = self.keyframes[self.keyframes >= count] - count
        self.start_seconds += shift
        duration = self.timeline.duration - shift
        self.timeline = dataclasses.replace(self.timeline, seconds=seconds - shift, duration=duration)
        self.leading += count
