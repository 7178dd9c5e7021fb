"""`open_video`: a video file, GIF, array, folder of images or image as one kind of source."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.models.config import VideoConfig
from tempo_jax.video.file_index import Timeline
from tempo_jax.video.file_index import constant as constant_rate
from tempo_jax.video.sampling import (
    Segment,
    check_limits,
    nearest_frames,
    real_fps,
    sample_indices,
    sample_times,
    segments,
)
from tempo_jax.video.sizes import check_size, image_size, resize_steps

SAMPLINGS = ("time", "index")
LATE_SECONDS = 0.1  # a picture that starts no later than this after the sound starts with the file
_ARRAY = "the array"
MOST_STRETCH = 8.0  # of a pixel's sides; what claims more is a damaged header


class Reading(TypedDict, total=False):
    """Options of decoding, which engines and commands pass on to `open_video`.

    Attributes:
      sampling: "time" (default): videos of variable frame rate are sampled evenly in time, and segments have
        the frames' presentation times. "index", as in the reference implementation: evenly by frame index,
        with times from the average rate. Both give the same frames for a constant frame rate.
      source_fps: recorded frames per second of an array, a .npy file or a folder of images; None: `fps`, so
        that every frame is used.
      exif: whether photos are rotated by their EXIF orientation; the reference implementation does not.
      square_pixels: whether frames with non-square pixels are stretched to their display size; the reference
        implementation does not.
    """

    sampling: str
    source_fps: float | None
    exif: bool
    square_pixels: bool


@dataclasses.dataclass
class Source:
    """A sampled video or a single image, ready to be read in chunks.

    Attributes:
      kind: "video" or "image".
      name: name of the file, for messages.
      num_frames: sampled frames.
      real_fps: sampled frames per second of video; unused for an image.
      duration_seconds: duration of the whole video in seconds; 0 for an image.
      height: height of the frames of `chunks`, in pixels.
      width: width of the frames of `chunks`, in pixels.
      total_frames: number of frames of the video.
      native_fps: recorded frames per second, on average; 0 if the file does not state it.
      indices: int64 [num_frames], indices of the sampled frames in the video.
      warnings: messages for the user; decoding may add more.
      seconds: float64 [num_frames], presentation time of each sampled frame.
      start_seconds: presentation time of the first frame; above 0 if the sound starts earlier.
      own_times: whether segments use `seconds`, because the frames are not evenly spaced.
      shift_seconds: offset of the times of segments: start_seconds, or 0 as in the reference implementation.
      Of a clip, `duration_seconds`, `seconds` and the times of segments are its own, from 0 on.
      selected_segments, parent: of a part (`select_segments`), its segments and the video it is taken from.
    """

    kind: str
    name: str
    num_frames: int
    real_fps: float
    duration_seconds: float
    height: int
    width: int
    total_frames: int
    native_fps: float
    indices: np.ndarray
    warnings: list[str]
    iter_frames: Callable[["Source"], Generator[np.ndarray, None, None]]
    seconds: np.ndarray
    start_seconds: float = 0.0
    own_times: bool = False
    shift_seconds: float = 0.0
    selected_segments: tuple[Segment, ...] | None = None
    parent: "Source | None" = None

    def segments(self, segment_frames: int = 8) -> tuple[Segment, ...]:
        """The segments and their times; none for an image. A part has the segments it was made of."""
        if self.kind == "image":
            return ()
        frame_times = self.seconds if self.own_times else None
        every = segments(
            self.num_frames,
            self.real_fps,
            segment_frames,
            seconds=frame_times,
            start_seconds=self.shift_seconds,
        )
        return self.selected_segments or tuple(every)

    def select_segments(self, segments: Sequence[Segment]) -> "Source":
        """The part of the video that consists of some of its segments, in time order.

        All sampled frames are still decoded; those of other segments are discarded.
        """
        kept = np.zeros(self.num_frames, bool)
        for segment in segments:
            kept[segment.start : segment.stop] = True

        def read(part: Source) -> Generator[np.ndarray, None, None]:
            with contextlib.closing(self.iter_frames(part)) as frames:
                yield from itertools.compress(frames, kept)

        return dataclasses.replace(
            self,
            num_frames=int(kept.sum()),
            indices=self.indices[kept],
            seconds=self.seconds[kept],
            warnings=list(self.warnings),
            iter_frames=read,
            selected_segments=tuple(sorted(segments, key=lambda segment: segment.start)),
            parent=self,
        )

    def chunks(self, frames_per_chunk: int) -> Iterator[np.ndarray]:
        """Decodes the sampled frames, from the first one at every call.

        Args:
          frames_per_chunk: frames of a chunk; the last one may have fewer.

        Yields:
          uint8 [n, height, width, 3]. The file is closed at the end, or when the iterator is dropped.

        Raises:
          TempoError: The video has become unreadable.
        """
        if frames_per_chunk < 1:
            raise ValueError("frames_per_chunk must be at least 1")
        return self._chunks(frames_per_chunk)

    def _chunks(self, frames_per_chunk: int) -> Iterator[np.ndarray]:
        with contextlib.closing(self.iter_frames(self)) as frames:
            for start in range(0, self.num_frames, frames_per_chunk):
                size = min(frames_per_chunk, self.num_frames - start)
                chunk = np.empty((size, self.height, self.width, 3), np.uint8)
                for row in range(size):
                    chunk[row] = next(frames)
                if start + size == self.num_frames:
                    next(frames, None)  # lets the reader finish and report what it could not decode
                yield chunk


@dataclasses.dataclass(frozen=True)
class SamplingRequest:
    """The validated options of `open_video`."""

    fps: float
    min_frames: int
    max_frames: int
    config: VideoConfig
    sampler: Callable[..., np.ndarray] | None
    progress: Callable[[str, int, int], None] | None
    sampling: str = "time"
    source_fps: float | None = None
    exif: bool = True
    square_pixels: bool = True
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_limits(self.fps, self.min_frames, self.max_frames)
        if self.sampling not in SAMPLINGS:
            raise TempoError(f"sampling is {self.sampling!r}: choose from {', '.join(SAMPLINGS)}.")
        if self.source_fps is not None and not (math.isfinite(self.source_fps) and self.source_fps > 0):
            raise TempoError(
                f"source_fps is {self.source_fps}, but it must be above 0: frames per second as recorded."
            )

        if self.clip is not None and not (
            len(self.clip) == 2 and all(map(math.isfinite, self.clip)) and 0 <= self.clip[0] < self.clip[1]
        ):
            raise TempoError(
                f"The clip is {self.clip}, but it must be (start, end) in seconds, the start from 0 on and "
                "before the end."
            )

    def cut(self, times: Timeline, name: str, start_seconds: float = 0.0) -> tuple[int, Timeline]:
        """The number of the clip's first frame, and its timeline from there on; (0, times) without a clip.

        As released, frame int(start x fps) is the first of int(seconds x fps) at a constant rate.
        """
        if self.clip is None:
            return 0, times
        if not times.fps:
            raise TempoError(f"The frames of {name} have no times of which a clip could be taken.")
        offset = start_seconds if self.sampling == "time" and start_seconds > LATE_SECONDS else 0.0
        start, end = (max(0.0, second - offset) for second in self.clip)
        if not start < times.duration or not end:
            raise TempoError(
                f"The clip from {self.clip[0]:g} to {self.clip[1]:g} s lies outside {name}, which lasts "
                f"{times.duration + offset:.2f} s: correct its times."
            )
        total, end = len(times.seconds), min(end, times.duration)
        if not self.by_time(times):
            # A frame's share of rounding is not to cost a frame: 0.3 s at 10 per second are 3.
            first = min(int(start * times.fps + 1e-6), total - 1)
            count = min(max(1, int((end - start) * times.fps + 1e-6)), total - first)
            return first, constant_rate(count, times.fps)
        first = max(0, int(np.searchsorted(times.seconds, start, side="right")) - 1)
        last = max(first + 1, int(np.searchsorted(times.seconds, end, side="left")))
        seconds = times.seconds[first:last] - times.seconds[first]
        duration = float((times.seconds[last] if last < total else times.duration) - times.seconds[first])
        fps = len(seconds) / duration
        return first, dataclasses.replace(times, seconds=seconds, fps=fps, duration=duration)

    def by_time(self, times: Timeline) -> bool:
        """Whether frames are sampled by their times."""
        return self.sampling == "time" and not times.constant

    def sample(self, times: Timeline) -> np.ndarray:
        """Numbers of the frames to read, int64 ascending."""
        total, limits = len(times.seconds), (self.fps, self.min_frames, self.max_frames)
        if not self.by_time(times):
            return (self.sampler or sample_indices)(total, times.fps, *limits)
        if self.sampler is None:
            return sample_times(times.seconds, times.duration, *limits)
        # Another system's rule, of a video that lasts as long at a constant rate.
        numbers = self.sampler(total, total / times.duration, *limits)
        return nearest_frames(times.seconds, (numbers + 0.5) * times.duration / total)

    def recorded(self, total: int) -> np.ndarray:
        """Frames of what counts as recorded at `fps`: all, or max_frames evenly spread ones."""
        if self.sampler is None and total <= self.max_frames:
            return np.arange(total)
        return self.sample(constant_rate(total, self.fps))


def open_video(
    video: Any,
    *,
    fps: float = 2.0,
    min_frames: int = 4,
    max_frames: int = 1024,
    config: VideoConfig | None = None,
    sampler: Callable[..., np.ndarray] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    clip: tuple[float, float] | None = None,
    **reading: Unpack[Reading],
) -> Source:
    """Opens a video and samples its frames; they are decoded by `Source.chunks`.

    Args:
      video: path of a video file, .gif, .npy, image or folder of images; a list of paths of images, the
        frames of a video in order; a uint8 array [T, H, W, 3] (a video) or [H, W, 3] (an image); a PIL
        image; or a Source, which is returned as it is.
      fps: sampling rate in frames per second.
      min_frames: minimum number of sampled frames; a shorter clip repeats some.
      max_frames: maximum number of sampled frames.
      config: a model's limits of frame sizes; None: Tempo's.
      sampler: sampling rule of another system, called like `sample_indices`; it also applies to frames that
        would all be used.
      progress: called as progress(stage, done, total) while a file is decoded to find its frames.
      clip: (start, end) in seconds of the video: only frames in between are sampled, and times count from
        `start`, as in the authors' training. An end beyond the video's is clipped.
      **reading: see `Reading`.

    Returns:
      The opened source.

    Raises:
      TempoError: The video cannot be read, or an option is invalid.
    """
    if isinstance(video, Source):
        return video
    limits = config or VideoConfig()
    request = SamplingRequest(fps, min_frames, max_frames, limits, sampler, progress, clip=clip, **reading)
    if isinstance(video, (str, Path)):
        return _open_path(video, request)
    if isinstance(video, list | tuple) and video and all(isinstance(file, str | Path) for file in video):
        return _open_frames("the list of frames", [Path(file) for file in video], request)
    if isinstance(video, np.ndarray):
        return _open_array(video, _ARRAY, request)
    from PIL import Image

    if isinstance(video, Image.Image):
        return _open_image(video, "the image", request)
    raise TempoError(
        f"A {type(video).__name__} is not a video: give a path, a uint8 array [T, H, W, 3] or a PIL image."
    )


def _open_path(video: str | Path, request: SamplingRequest) -> Source:
    if str(video).startswith("file://"):
        raise TempoError(f"{video} is the address of a local file: give its path alone.")
    if "://" in str(video):
        raise TempoError(f"{video} is a web address: download the video first and give the file's path.")
    path = Path(video).expanduser()
    try:
        if not path.exists():
            raise TempoError(f"{path} does not exist: check the path.")
        if path.is_dir():
            return _open_folder(path, request)
        if not path.is_file():
            raise TempoError(f"{path} is neither a file nor a folder: give a video file.")
        if path.stat().st_size == 0:
            raise TempoError(f"{path} is empty (0 bytes): get a complete copy.")
    except (OSError, ValueError) as error:
        if isinstance(error, TempoError):
            raise
        raise TempoError(f"{str(video)!r} cannot be opened ({error}): check the path.") from error
    if path.suffix.lower() == ".npy":
        return _open_npy(path, request)
    from tempo_jax.video import images

    picture = images.identify(path)
    if picture is not None:
        with picture:
            if images.is_animated(picture):
                return _open_animation(path, request)
            return _open_image(picture, path.name, request, path)
    try:
        return _open_file(path, request)
    except TempoError as error:
        if images.misnamed(path):
            raise TempoError(
                f"{path} is not an image despite its name: rename it or give another file."
            ) from error
        raise


def _open_file(path: Path, request: SamplingRequest) -> Source:
    from tempo_jax.video import decode
    from tempo_jax.video.indexing import read_index, uneven_warning

    index = read_index(path, request.progress)
    frame = decode.first_frame(index)
    convert = decode.FrameConverter(frame, _stretch(index.pixel_aspect) if request.square_pixels else 1.0)
    check_size(convert.height, convert.width, f"The frames of {path.name}")
    first, times = request.cut(index.timeline, path.name, index.start_seconds)
    indices = request.sample(times)

    def read(source: Source) -> Generator[np.ndarray, None, None]:
        reader = decode.FrameReader(index, *np.unique(first + indices, return_counts=True))
        yield from reader.pixels(convert)
        for sentence in reader.warnings():
            if sentence not in source.warnings:
                source.warnings.append(sentence)

    warnings = index.warnings + uneven_warning(path.name, index.timeline, request.by_time(index.timeline))
    starts = index.start_seconds if request.clip is None else 0.0
    source = _video(path.name, indices, times, request, convert, read, warnings, starts)
    return _placed(source, first, len(index.timeline.seconds))


def _placed(source: Source, first: int, total: int) -> Source:
    """A clip's source, its frames numbered as in the whole video of `total` frames."""
    return dataclasses.replace(source, indices=source.indices + first, total_frames=total)


def _stretch(pixel_aspect: float) -> float:
    return pixel_aspect if 1 / MOST_STRETCH <= pixel_aspect <= MOST_STRETCH else 1.0


def _open_animation(path: Path, request: SamplingRequest) -> Source:
    from tempo_jax.video import images
    from tempo_jax.video.indexing import uneven_warning

    animation = images.Animation(path)
    check_size(animation.height, animation.width, f"The frames of {path.name}")
    first, times = request.cut(animation.timeline, path.name)
    indices = request.sample(times)
    by_time = request.by_time(animation.timeline)
    warnings = animation.warnings + uneven_warning(path.name, animation.timeline, by_time)

    def read(source: Source) -> Generator[np.ndarray, None, None]:
        return animation.frames(first + indices)

    source = _video(path.name, indices, times, request, animation, read, warnings)
    return _placed(source, first, len(animation.timeline.seconds))


def _video(name, indices, times, request, size, read, warnings=(), start_seconds=0.0) -> Source:
    """A video Source; `size` has height and width."""
    resize_steps(size.height, size.width, request.config)
    total, by_time = len(times.seconds), request.by_time(times)
    if by_time:
        rate = len(indices) / times.duration
    else:
        rate = real_fps(len(indices), total, times.fps, request.fps)
    late = start_seconds if start_seconds > LATE_SECONDS else 0.0
    return Source(
        kind="video",
        name=name,
        num_frames=len(indices),
        real_fps=rate,
        duration_seconds=len(indices) / rate,
        height=size.height,
        width=size.width,
        total_frames=total,
        native_fps=times.fps,
        indices=indices,
        warnings=list(warnings),
        iter_frames=read,
        seconds=start_seconds + (times.seconds[indices] if times.fps else indices / request.fps),
        start_seconds=start_seconds,
        own_times=by_time,
        shift_seconds=late if request.sampling == "time" else 0.0,
    )


def _recorded(name: str, count: int, request: SamplingRequest) -> tuple[int, np.ndarray, Timeline, list[str]]:
    """Samples `count` frames without times: the clip's first frame, the sampled ones, its times, warnings.

    `name`: of the file or folder; empty for an array, whose caller has `open_video`'s word for it.
    """
    if request.source_fps is not None:
        recording = constant_rate(count, request.source_fps)
        first, times = request.cut(recording, name or _ARRAY)
        return first, request.sample(times), times, []
    if request.clip is not None:
        raise TempoError(
            f"A clip of {name or _ARRAY} is asked for, whose frames have no times: give source_fps, the rate "
            "at which they were recorded."
        )
    indices = request.recorded(count)
    used = "every one is used" if len(indices) == count else f"{len(indices)} of {count} are used"
    assumed = (
        f"The frames of {name} are taken as recorded at {request.fps:g} per second, and {used}: "
        "give source_fps (--source-fps) if they were recorded at another rate."
    )
    return 0, indices, constant_rate(count, request.fps), [assumed] if name else []


@dataclasses.dataclass(frozen=True)
class _Size:
    height: int
    width: int


def _open_array(array: np.ndarray, name: str, request: SamplingRequest) -> Source:
    if array.ndim not in (3, 4) or array.shape[-1] != 3:
        raise TempoError(
            f"{name} has shape {tuple(array.shape)}, but a video is [T, H, W, 3] and an image [H, W, 3]: "
            "reshape it."
        )
    if array.dtype != np.uint8:
        raise TempoError(f"{name} holds {array.dtype}, but pixels are uint8 from 0 to 255: convert it.")
    if not array.size:
        raise TempoError(f"{name} is empty (shape {tuple(array.shape)}): give at least one frame.")
    height, width = array.shape[-3:-1]
    check_size(height, width, f"The frames of {name}")
    if array.ndim == 3:
        return _image(name, height, width, request, array)
    first, indices, times, warnings = _recorded("" if name == _ARRAY else name, len(array), request)

    def read(source: Source) -> Generator[np.ndarray, None, None]:
        return (array[first + i] for i in indices)

    source = _video(name, indices, times, request, _Size(height, width), read, warnings)
    return _placed(source, first, len(array))


def _open_npy(path: Path, request: SamplingRequest) -> Source:
    try:
        # Mapped, not read: only sampled frames are ever touched.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise TempoError(
            f"{path} is not a complete .npy file of plain numbers: save a uint8 array [T, H, W, 3] with "
            "numpy.save."
        ) from error
    if not isinstance(array, np.ndarray):  # a zip archive of arrays under the wrong suffix
        raise TempoError(f"{path} is an archive of arrays: save the video alone with numpy.save.")
    return _open_array(array, path.name, request)


def _open_folder(folder: Path, request: SamplingRequest) -> Source:
    from tempo_jax.video import images

    return _open_frames(folder.name, images.list_images(folder), request)


def _open_frames(name: str, files: Sequence[Path], request: SamplingRequest) -> Source:
    from tempo_jax.video import images

    first, indices, times, warnings = _recorded(name, len(files), request)
    height, width = images.common_size([files[first + i] for i in indices], request.exif)
    check_size(height, width, f"The images in {name}")

    def read(source: Source) -> Generator[np.ndarray, None, None]:
        for index in indices:
            yield images.load(files[first + index], (height, width), request.exif)

    source = _video(name, indices, times, request, _Size(height, width), read, warnings)
    return _placed(source, first, len(files))


def _open_image(picture: Any, name: str, request: SamplingRequest, path: Path | None = None) -> Source:
    from tempo_jax.video import images

    warnings = []
    if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":  # whose others belong to the first
        warnings.append(
            f"{name} holds several images, of which only the first is used: make it a .gif or .mp4."
        )
    check_size(picture.height, picture.width, f"The pixels of {name}")
    pixels = images.to_rgb(picture, path or name, request.exif)
    height, width = pixels.shape[:2]
    source = _image(name, height, width, request, pixels)
    source.warnings.extend(warnings)
    return source


def _image(name, height, width, request, pixels) -> Source:
    if request.clip is not None:
        raise TempoError(f"{name} is an image, of which no clip can be taken: leave out its times.")
    image_size(height, width, request.config)
    return Source(
        kind="image",
        name=name,
        num_frames=1,
        real_fps=request.fps,
        duration_seconds=0.0,
        height=height,
        width=width,
        total_frames=1,
        native_fps=0.0,
        indices=np.zeros(1, np.int64),
        warnings=[],
        iter_frames=lambda source: (frame for frame in (pixels,)),
        seconds=np.zeros(1),
    )
