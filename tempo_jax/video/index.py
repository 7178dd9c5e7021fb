"""What is in a video file, from its packets alone: frame count, times, keyframes, missing parts.

Reading packets without decoding them costs milliseconds per minute of video, and it is the only
way to know the true frame count of a truncated or variable-rate file, and to find frame i again
after a seek.
"""

import dataclasses
import math
from array import array
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from tempo_jax.errors import TempoError

MAX_READ_ERRORS = 8  # in a row; some demuxers recover after a damaged stretch, others never do
RATE_TOLERANCE = 0.02  # a header's rate further off the frames' own times is not believed
MISSING_SECONDS = 0.5  # less than this is rounding in the container's duration
UNEVEN_SECONDS = 0.5  # time error worth a warning when frames are not evenly spaced


@dataclasses.dataclass
class VideoIndex:
    """A file's frames in presentation order.

    `pts`: int64 [T] in units of `time_base`, ascending; None where the file's times cannot tell
    its frames apart (then frames are found by counting from the start). `keyframes`: int64 frame
    numbers one can seek to. `fps`: average frames per second, 0 if unknown.
    """

    path: Path
    stream: int
    total_frames: int
    fps: float
    pts: np.ndarray | None
    keyframes: np.ndarray
    warnings: list[str]


def open_container(path: Path) -> av.container.InputContainer:
    """The opened file; TempoError when it is no video, damaged beyond use or not allowed to us."""
    try:
        # "file:" keeps names with colons from being taken for protocols, and the whitelist keeps
        # playlists from pulling in anything else.
        return av.open(f"file:{path.absolute()}", options={"protocol_whitelist": "file"})
    except PermissionError as error:
        raise TempoError(f"{path} may not be read: change its permissions.") from error
    except FileNotFoundError as error:
        raise TempoError(f"There is no video {path} any more: check the path.") from error
    except (av.FFmpegError, ValueError, OSError) as error:
        with path.open("rb") as file:
            head = file.read(12)
        if head[4:8] == b"ftyp":
            raise TempoError(
                f"{path} is incomplete: its index (the moov box) is missing, so no frame can be decoded; "
                "get a complete copy."
            ) from error
        raise TempoError(
            f"{path} cannot be read as a video or an image: give a video file (such as .mp4, .mkv or .webm), "
            ".gif, .npy, an image or a folder of images."
        ) from error


def video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The first video stream that is not a cover picture; TempoError if there is none."""
    if container.format.name == "tty":  # FFmpeg renders any .txt file as a film of its text
        raise TempoError(f"{path} is a text file: give a video, an image or a folder of images.")
    pictures = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & pictures]
    if not streams:
        what = "has sound but no video" if container.streams.audio else "has no video in it"
        raise TempoError(f"{path} {what}: give a file with a video stream.")
    if streams[0].codec_context is None:
        raise TempoError(f"{path} uses a video codec that cannot be decoded here: convert it to H.264.")
    return streams[0]


def packets(container: av.container.InputContainer, stream: av.stream.Stream | None) -> Iterator[av.Packet]:
    """Non-empty packets of `stream` (None: of all streams), read on past damaged stretches."""
    failures = 0
    demuxer = container.demux() if stream is None else container.demux(stream)
    while failures < MAX_READ_ERRORS:
        try:
            packet = next(demuxer)
        except StopIteration:
            return
        except (av.FFmpegError, OSError):
            failures += 1
            demuxer = container.demux() if stream is None else container.demux(stream)
            continue
        failures = 0
        if packet.size:
            yield packet


@dataclasses.dataclass
class _Scan:
    """What one pass over the packets found; times of video packets in stream units."""

    pts: array
    keys: array
    missing_pts: bool = False
    dts_ordered: bool = True
    begin_seconds: float = math.inf
    end_seconds: float = -math.inf


def _scan(container: av.container.InputContainer, stream: av.VideoStream) -> _Scan:
    scan = _Scan(array("q"), array("b"))
    last_dts = None
    # Without a duration of its own, the stream is judged by the container's, which is that of the
    # longest stream; so all of them must be looked at.
    for packet in packets(container, stream if stream.duration is not None else None):
        time = packet.pts if packet.pts is not None else packet.dts
        if time is not None and packet.time_base:
            base = float(packet.time_base)
            scan.begin_seconds = min(scan.begin_seconds, time * base)
            scan.end_seconds = max(scan.end_seconds, (time + (packet.duration or 0)) * base)
        if packet.stream_index != stream.index or packet.is_discard or packet.is_corrupt:
            continue
        if last_dts is not None and packet.dts is not None and packet.dts < last_dts:
            scan.dts_ordered = False
        last_dts = packet.dts if packet.dts is not None else last_dts
        scan.missing_pts |= packet.pts is None
        scan.pts.append(packet.pts if packet.pts is not None else 0)
        scan.keys.append(packet.is_keyframe)
    return scan


def _frame_times(scan: _Scan, stream: av.VideoStream) -> tuple[np.ndarray | None, np.ndarray]:
    """Ascending pts of all frames, or None where they cannot be trusted; frame numbers of keyframes."""
    raw, keys = np.frombuffer(scan.pts, np.int64), np.frombuffer(scan.keys, np.int8)
    pts = np.unique(raw)
    if scan.missing_pts or not scan.dts_ordered or len(pts) != len(raw):
        return None, np.zeros(0, np.int64)
    # AVI and its like store decoding times only. B-frames then come out in another order than the
    # times say; in a file that does store presentation times they show as times that step back.
    stepping_back = bool((np.diff(raw) < 0).any())
    honest = {"mov", "mp4", "matroska", "webm", "mpegts", "mpeg", "flv", "gif"}
    formats = set(stream.container.format.name.split(","))
    if stream.codec_context.has_b_frames and not stepping_back and not formats & honest:
        return None, np.zeros(0, np.int64)
    return pts, np.searchsorted(pts, np.sort(raw[keys != 0]))


def _rate(stream: av.VideoStream, pts: np.ndarray | None) -> float:
    """Average frames per second: the header's, unless the frames' own times contradict it."""
    if pts is None:  # of a bare stream without a container, only the codec itself may know
        return float(stream.guessed_rate or stream.average_rate or 0)
    claimed = float(stream.average_rate or stream.guessed_rate or 0)
    if len(pts) < 2:
        return claimed
    # The last frame lasts as long as a typical one.
    measured = 1 / (float(np.mean(np.diff(pts))) * float(stream.time_base))
    return claimed if abs(claimed / measured - 1) <= RATE_TOLERANCE else measured


def _short_warning(name: str, scan: _Scan, promised: float, fps: float) -> list[str]:
    """A sentence if the file ends well before the duration it promises."""
    present = max(scan.end_seconds - scan.begin_seconds, 0.0)
    missing = promised - present
    if not present or missing <= max(MISSING_SECONDS, 2 / fps if fps else 0):
        return []
    return [
        f"{name} is cut short: {missing:.1f} of its {promised:.1f} seconds are missing, and the answer is "
        f"about the {present:.1f} seconds that are there."
    ]


def _uneven_warning(name: str, pts: np.ndarray | None, base: float, fps: float) -> list[str]:
    """A sentence if frame i is far from i / fps seconds, which all times assume (§2.1)."""
    if pts is None or not fps:
        return []
    error = np.abs((pts - pts[0]) * base - np.arange(len(pts)) / fps).max()
    if error <= UNEVEN_SECONDS:
        return []
    return [
        f"{name} has unevenly spaced frames (a variable frame rate, or lost frames): times follow the "
        f"average of {fps:.2f} frames per second and are up to {error:.1f} seconds off."
    ]


def read_index(path: Path) -> VideoIndex:
    """Index a video file by reading its packets; TempoError if it holds no video frames."""
    with open_container(path) as container:
        stream = video_stream(container, path)
        if stream.duration is not None:
            promised = float(stream.duration * stream.time_base)
        else:
            promised = (container.duration or 0) / av.time_base
        scan = _scan(container, stream)
        if not scan.pts:
            raise TempoError(f"{path} holds no video frames: it is cut off or empty; get a complete copy.")
        pts, keyframes = _frame_times(scan, stream)
        fps = _rate(stream, pts)
        warnings = _short_warning(path.name, scan, promised, fps)
        warnings += _uneven_warning(path.name, pts, float(stream.time_base or 0), fps)
        return VideoIndex(path, stream.index, len(scan.pts), fps, pts, keyframes, warnings)
