"""Indexing of video files: pictures in presentation order, their times, keyframes and missing parts.

Reading packets without decoding them costs milliseconds per minute of video. Which packets become
pictures is known from their first bytes (`pictures`); where neither that nor the packets' times can tell
the order of pictures, the file is decoded once instead.
"""

import contextlib
import dataclasses
import itertools
from array import array
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.video import declared, decode, file_index, pictures
from tempo_jax.video.containers import (
    INTRA_ONLY,
    REORDER,
    TS_DISCONT,
    open_container,
    packets,
    video_stream,
)
from tempo_jax.video.file_index import NO_TIME, Timeline, VideoIndex

MISSING_SECONDS = 0.5  # less than this is rounding in the container's duration
JOINT_PACKETS = 4  # around a jump, which may look broken as the packets before are not theirs
REORDER_SLACK = 3.0  # frames by which times that are decoding times may be off at the start
# Formats that store presentation times. Others store decoding times only, and FFmpeg passes them on.
SHARED_DURATIONS = {"asf"}  # formats whose streams are all said to last as long as the longest
PROBED_FRAMES = 16  # decoded where packets claim an order that nothing shows
PRESENTATION_TIMES = {"mov", "mp4", "matroska", "webm", "mpegts", "mpeg", "flv", "gif", "nut"}

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass
class _Scan:
    """The result of one pass over the packets. Arrays are of packets that become pictures, in file order."""

    pts: array = dataclasses.field(default_factory=lambda: array("q"))
    dts: array = dataclasses.field(default_factory=lambda: array("q"))
    keys: array = dataclasses.field(default_factory=lambda: array("b"))
    every_key: bool = True
    doubtful: bool = False
    unproved: bool = False  # the decoder is said to reorder, and no time steps back
    corrupt: list[int] = dataclasses.field(default_factory=list)  # which of them are broken or follow a gap
    begin: float = np.inf  # seconds, over all streams that were read
    end: float = -np.inf
    last_duration: int = 0


def read_index(path: Path, progress: Progress | None = None) -> VideoIndex:
    """Indexes a video file.

    Args:
      path: the file.
      progress: told ("finding frames", bytes done, bytes in all) where the file has to be decoded for it.

    Returns:
      The index.

    Raises:
      TempoError: the file holds no video frames, or none that can be decoded.
    """
    with open_container(path) as container:
        stream, warnings = video_stream(container, path)
        check, below = pictures.checker(stream)
        scan = _scan(container, stream, check, below)
        if not scan.pts:
            raise TempoError(
                declared.refusal(path)
                or f"{path} holds no video frames: it is cut off or empty; get a complete copy."
            )
        index = _from_packets(container, stream, scan, check)
        if index is not None and scan.unproved:
            index = index if _shown_in_order(dataclasses.replace(index, path=path)) else None
        index = index or _from_decoding(path, stream, scan, progress)
        index.path, index.warnings = path, warnings
        index.pixel_aspect = float(stream.sample_aspect_ratio or 1)
        index.cut_into = bool(stream.codec_context.codec.properties & REORDER)
        index.skippable = not getattr(check, "pairs_fields", False)
        jumps = _jumps(stream, scan)[1]
        warnings += _jump_warning(path.name, jumps, index, scan, float(stream.time_base))
        short = [] if jumps else _short_warning(path.name, container, stream, scan, index.timeline.fps)
        if not short and (fault := declared.fault(path, container.format.name)):
            seconds = f"the answer is about the {index.timeline.duration:.1f} seconds that are there"
            short = [f"{path.name} {fault}, and {seconds}."]
        warnings += short
        warnings += _gap_warning(path.name, scan, jumps)
        return index


def _scan(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    check: pictures.Checker | None,
    below: int,
) -> _Scan:
    scan = _Scan()
    number = stream.index
    # Without a duration of its own, the stream is judged by the container's, which is that of the
    # longest stream; so all of them must be checked.
    formats, jumps = set(container.format.name.split(",")), container.format.flags & TS_DISCONT
    alone = bool(jumps) or (stream.duration is not None and not formats & SHARED_DURATIONS)
    ends: dict[int, list] = {}  # of other streams: first time, end, seconds of a unit
    add_pts, add_dts, add_key = scan.pts.append, scan.dts.append, scan.keys.append
    last = None
    for packet in packets(container, stream if alone else None):
        pts = packet.pts
        if packet.stream_index != number:
            time = pts if pts is not None else packet.dts
            if time is not None:
                span = ends.setdefault(packet.stream_index, [time, time, packet.time_base])
                span[0] = min(span[0], time)
                span[1] = max(span[1], time + (packet.duration or 0))
            continue
        if packet.is_discard:
            continue
        key = packet.is_keyframe
        if check is not None and packet.size < below:
            kind = check(packet)
            scan.doubtful |= kind == pictures.DOUBTFUL
            if kind in (pictures.HIDDEN, pictures.EMPTY):
                continue
        if packet.is_corrupt:
            scan.corrupt.append(len(scan.keys))
        dts = packet.dts
        add_pts(NO_TIME if pts is None else pts)
        add_dts(NO_TIME if dts is None else dts)
        add_key(key)
        last = packet
    spans = [(low * float(base), high * float(base)) for low, high, base in ends.values() if base]
    times = np.frombuffer(scan.pts, np.int64)
    times = times[times != NO_TIME] if len(times) else times
    if not len(times) and len(scan.dts):
        times = np.frombuffer(scan.dts, np.int64)
        times = times[times != NO_TIME]
    if last is not None:
        scan.last_duration = last.duration or 0
        if len(times) and stream.time_base:
            base = float(stream.time_base)
            spans.append((times.min() * base, (times.max() + scan.last_duration) * base))
    if spans:
        scan.begin, scan.end = min(low for low, _ in spans), max(high for _, high in spans)
    scan.every_key = bool(len(scan.keys) and np.frombuffer(scan.keys, np.int8).all())
    return scan


def _jumps(stream: av.VideoStream, scan: _Scan) -> tuple[np.ndarray, list[file_index.Jump]]:
    dts, pts = np.frombuffer(scan.dts, np.int64), np.frombuffer(scan.pts, np.int64)
    times = np.where(dts == NO_TIME, NO_TIME if (dts != NO_TIME).sum() > 1 else pts, dts)
    may_jump = bool(stream.container.format.flags & TS_DISCONT)
    return file_index.close_jumps(times, float(stream.time_base or 0), may_jump)


def _from_packets(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    scan: _Scan,
    check: pictures.Checker | None,
) -> VideoIndex | None:
    """The index by the packets alone; None where they cannot tell which picture is which."""
    raw, dts = np.frombuffer(scan.pts, np.int64), np.frombuffer(scan.dts, np.int64)
    keys = np.frombuffer(scan.keys, np.int8) != 0
    if check is None or scan.doubtful:
        return None
    reorders = bool(stream.codec_context.has_b_frames)
    missing = raw == NO_TIME
    if missing.any():
        if reorders or (dts[missing] == NO_TIME).any():
            return None
        return None if not missing.all() else _from_decoding_times(container, stream, scan)
    offsets, jumps = _jumps(stream, scan)
    known = dts != NO_TIME
    if (np.diff((dts + offsets)[known]) < 0).any():
        return None
    formats = set(container.format.name.split(","))
    steps_back = bool((np.diff(raw) < 0).any()) and not jumps
    if reorders and not steps_back and not formats & PRESENTATION_TIMES:
        return None
    scan.unproved = reorders and not steps_back
    closed = raw + offsets
    order = np.argsort(closed, kind="stable")
    pts, closed = raw[order], closed[order]
    repeated = np.diff(closed) == 0
    if reorders and repeated.any():
        return None  # which of two is shown first, only the decoder knows
    tied = np.zeros(len(pts), bool)
    tied[1:] |= repeated
    tied[:-1] |= repeated
    keyframes = np.flatnonzero(keys[order] & ~tied)
    if jumps or (scan.every_key and not stream.codec_context.codec.properties & INTRA_ONLY and len(pts) > 1):
        keyframes = keyframes[:0]  # the one cannot be found by its time, the other is no keyframe
    base = float(stream.time_base)
    claimed = float(stream.average_rate or stream.guessed_rate or 0)
    times = file_index.timeline(closed * base, claimed, scan.last_duration * base, tick=1.5 * base)
    first = pts[0] if formats & PRESENTATION_TIMES else min(pts[0], dts[known].min(initial=pts[0]))
    start = _start_seconds(container, first * base)
    return VideoIndex(Path(), stream.index, pts, keyframes, times, start)


def _shown_in_order(index: VideoIndex) -> bool:
    """Whether the first pictures come out of the decoder in the order of their times."""
    with contextlib.closing(decode.FrameReader(index, *np.zeros((2, 0), np.int64))) as reader:
        frames = itertools.islice(reader.every_frame(), PROBED_FRAMES)
        stamps = [frame.pts for frame in frames]
    return stamps == index.pts[: len(stamps)].tolist()


def _start_seconds(container: av.container.InputContainer, first: float) -> float:
    """The first picture's presentation time: the clock starts with the file's first sound or picture."""
    if container.start_time is None:
        return 0.0
    return max(0.0, first - container.start_time / av.time_base)


def _from_decoding_times(
    container: av.container.InputContainer, stream: av.VideoStream, scan: _Scan
) -> VideoIndex | None:
    """The index of a stream that never reorders and has decoding times only."""
    dts = np.frombuffer(scan.dts, np.int64)
    if (np.diff(dts) <= 0).any():
        return None
    return VideoIndex(Path(), stream.index, None, np.zeros(0, np.int64), _counted(stream, scan, len(dts)))


def _counted(stream: av.VideoStream, scan: _Scan, count: int) -> Timeline:
    """Times of pictures that carry none: those of the packets in order, else a constant rate."""
    claimed = float(stream.guessed_rate or stream.average_rate or 0)
    base = float(stream.time_base or 0)
    for times in (np.frombuffer(scan.dts, np.int64), np.frombuffer(scan.pts, np.int64)):
        (known,) = np.nonzero(times != NO_TIME)
        if len(times) == count and base and len(known) > 1:
            offsets, _ = file_index.close_jumps(times, base, True)
            closed = np.sort(_filled(times + offsets, known)) * base
            last = scan.last_duration * base
            return file_index.timeline(closed, claimed, last, tick=base, slack=REORDER_SLACK, typical=True)
    if claimed:
        return file_index.constant(count, claimed)
    span = scan.end - scan.begin
    return file_index.constant(count, count / span if np.isfinite(span) and span > 0 else 0.0)


def _filled(times: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Times with those that are missing put evenly between the known ones, and after them at their rate."""
    numbers = np.arange(len(times))
    slope = (times[known[-1]] - times[known[0]]) / max(1, known[-1] - known[0])
    filled = np.interp(numbers, known, times[known])
    filled[: known[0]] = times[known[0]] - slope * (known[0] - numbers[: known[0]])
    filled[known[-1] :] = times[known[-1]] + slope * (numbers[known[-1] :] - known[-1])
    return filled


def _from_decoding(path: Path, stream: av.VideoStream, scan: _Scan, progress: Progress | None) -> VideoIndex:
    """The index by decoding the file once."""
    index = VideoIndex(
        path, stream.index, None, np.zeros(0, np.int64), file_index.constant(len(scan.pts), 1.0)
    )
    index.skippable = False
    stamps = array("q")
    size = path.stat().st_size >> 20
    reader = decode.FrameReader(index, np.zeros(0, np.int64), np.zeros(0, np.int64))
    with contextlib.closing(reader):
        for frame in reader.every_frame():
            stamps.append(NO_TIME if frame.pts is None else frame.pts)
            if progress is not None and len(stamps) % 100 == 0:
                progress("finding frames (MiB)", min(reader.place >> 20, size), size)
    if not stamps:
        raise TempoError(
            declared.refusal(path)
            or f"{path} has no frame that can be decoded: it is damaged; get a complete copy."
        )
    if progress is not None:
        progress("finding frames (MiB)", size, size)
    pts = np.frombuffer(stamps, np.int64)
    base = float(stream.time_base or 0)
    known = (pts != NO_TIME).all() and base > 0
    offsets = file_index.close_jumps(pts, base, True)[0] if known else 0
    formats = set(stream.container.format.name.split(","))
    if not known or (np.diff(pts + offsets) < 0).any() or not formats & PRESENTATION_TIMES:
        index.timeline = _counted(stream, scan, len(pts))
        return index
    claimed = float(stream.average_rate or stream.guessed_rate or 0)
    seconds = (pts + offsets) * base
    index.timeline = file_index.timeline(seconds, claimed, scan.last_duration * base, tick=1.5 * base)
    index.start_seconds = _start_seconds(stream.container, pts[0] * base)
    if (np.diff(pts) > 0).all():
        raw, keys = np.frombuffer(scan.pts, np.int64), np.frombuffer(scan.keys, np.int8) != 0
        intra = bool(stream.codec_context.codec.properties & INTRA_ONLY)
        index.pts = pts
        index.keyframes = np.flatnonzero(np.isin(pts, raw[keys])) if intra or not scan.every_key else pts[:0]
    return index


# --- sentences


def _short_warning(
    name: str, container: av.container.InputContainer, stream: av.VideoStream, scan: _Scan, fps: float
) -> list[str]:
    """A sentence if the file ends well before the duration that it declares."""
    formats = set(container.format.name.split(","))
    if container.format.flags & TS_DISCONT or not np.isfinite(scan.end):
        return []  # their durations are taken from the times that are there
    begin = scan.begin
    if "matroska" in formats:
        begin = min(begin, 0.0)  # its durations are times of the end
    promised = float(stream.duration * stream.time_base) if stream.duration is not None else 0.0
    promised = promised or (container.duration or 0) / av.time_base
    present = max(scan.end - begin, 0.0)
    missing = promised - present
    if not present or missing <= max(MISSING_SECONDS, 2 / fps if fps else 0):
        return []
    return [
        f"{name} is cut short: {missing:.1f} of its {promised:.1f} seconds are missing, and the answer is "
        f"about the {present:.1f} seconds that are there."
    ]


def _jump_warning(
    name: str, jumps: list[file_index.Jump], index: VideoIndex, scan: _Scan, base: float
) -> list[str]:
    if not jumps:
        return []
    share = jumps[0].packet / len(scan.pts)
    place = float(index.timeline.seconds[min(index.total_frames - 1, round(share * index.total_frames))])
    direction = "ahead" if jumps[0].size > 0 else "back"
    others_note = f", and {len(jumps) - 1} more times" if len(jumps) > 1 else ""
    return [
        f"The clock of {name} jumps {direction} by {abs(jumps[0].size) * base:.1f} seconds at {place:.1f} "
        f"seconds{others_note} (joined recordings?): times count on from there."
    ]


def _gap_warning(name: str, scan: _Scan, jumps: list[file_index.Jump]) -> list[str]:
    """A sentence if packets are broken or missing, elsewhere than where two recordings are joined."""
    joints = {jump.packet + k for jump in jumps for k in range(-JOINT_PACKETS, JOINT_PACKETS + 1)}
    broken = len([packet for packet in scan.corrupt if packet not in joints])
    if not broken:
        return []
    return [f"{name} is damaged: {broken} of its {len(scan.pts)} packets are broken or follow a gap."]


def uneven_warning(name: str, times: Timeline, by_time: bool) -> list[str]:
    """A sentence if a frame is far from i / fps seconds, where the average rate would put it."""
    if times.off <= file_index.UNEVEN_SECONDS:
        return []
    uneven = f"{name} has unevenly spaced frames (a variable frame rate, or lost frames)"
    if by_time:
        return [f"{uneven}: frames are sampled evenly in time and keep their own times."]
    return [
        f"{uneven}: times follow the average of {times.fps:.2f} frames per second and are up to "
        f"{times.off:.1f} seconds off."
    ]
