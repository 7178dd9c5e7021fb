"""`open_video`: a video file, GIF, array, folder of images or image as one kind of source."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.models.config import VideoConfig
from tempo_jax.video.sampling import Segment, check_limits, real_fps, sample_indices
from tempo_jax.video.sizes import check_size, image_size, resize_steps


@dataclasses.dataclass
class Source:
    """A sampled video or a single image, ready to be read in chunks.

    kind: "video" or "image". num_frames: sampled frames. real_fps: sampled frames per second of
    video (for an image: the asked rate, which nothing uses). duration_seconds: of the whole video,
    0 for an image. height, width: of the frames as `chunks` gives them. warnings: sentences for
    the user; decoding may add to them. indices: int64 [num_frames] into total_frames. native_fps:
    as recorded, 0 where the file does not say. shown, whole: of a part (`only`), its segments and the
    video that it is a part of.
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
    _read: Callable[["Source"], Iterator[np.ndarray]]
    shown: tuple[Segment, ...] | None = None
    whole: "Source | None" = None

    def only(self, segments: Sequence[Segment]) -> "Source":
        """The part of the video that these of its segments make, in time order.

        All sampled frames are still decoded; those of other segments are let go at once.
        """
        kept = np.zeros(self.num_frames, bool)
        for segment in segments:
            kept[segment.start : segment.stop] = True

        def read(part: Source) -> Iterator[np.ndarray]:
            with contextlib.closing(self._read(part)) as frames:
                yield from itertools.compress(frames, kept)

        return dataclasses.replace(
            self,
            num_frames=int(kept.sum()),
            indices=self.indices[kept],
            warnings=list(self.warnings),
            _read=read,
            shown=tuple(sorted(segments, key=lambda segment: segment.start)),
            whole=self,
        )

    def chunks(self, frames_per_chunk: int) -> Iterator[np.ndarray]:
        """uint8 [n, height, width, 3], n = frames_per_chunk but for the last one.

        Starts from the first frame at every call; the file is closed at the end or when the
        iterator is dropped. Raises TempoError if the video has become unreadable.
        """
        if frames_per_chunk < 1:
            raise ValueError("frames_per_chunk must be at least 1")
        return self._chunks(frames_per_chunk)

    def _chunks(self, frames_per_chunk: int) -> Iterator[np.ndarray]:
        with contextlib.closing(self._read(self)) as frames:
            for start in range(0, self.num_frames, frames_per_chunk):
                size = min(frames_per_chunk, self.num_frames - start)
                chunk = np.empty((size, self.height, self.width, 3), np.uint8)
                for row in range(size):
                    chunk[row] = next(frames)
                if start + size == self.num_frames:
                    next(frames, None)  # lets the reader finish and report what it could not decode
                yield chunk


@dataclasses.dataclass(frozen=True)
class _Request:
    """What the caller asked for, checked."""

    fps: float
    min_frames: int
    max_frames: int
    config: VideoConfig
    sampler: Callable[..., np.ndarray] | None

    def sample(self, total: int, native_fps: float) -> np.ndarray:
        """Frames of a file."""
        sampler = self.sampler or sample_indices
        return sampler(total, native_fps, self.fps, self.min_frames, self.max_frames)

    def recorded(self, total: int) -> np.ndarray:
        """Frames of what counts as recorded at fps: all, or max_frames evenly spread ones."""
        if self.sampler is None and total <= self.max_frames:
            return np.arange(total)
        return self.sample(total, self.fps)


def open_video(
    video: Any,
    *,
    fps: float = 2.0,
    min_frames: int = 4,
    max_frames: int = 1024,
    config: VideoConfig | None = None,
    sampler: Callable[..., np.ndarray] | None = None,
) -> Source:
    """Open anything the contract calls a video (DESIGN §3).

    `video`: path of a video file, .gif, .npy, image or folder of images; or an array uint8
    [T, H, W, 3] (a video) or [H, W, 3] (an image); or a PIL image. Files are sampled at `fps`
    within min_frames..max_frames (§2.1). Arrays, .npy and folders count as recorded at `fps`: all
    their frames are taken as they are, evenly thinned out if there are more than max_frames. A
    Source, opened and sampled already (in another process, say), is returned as it is.
    sampler: another system's rule, called like `sample_indices`; it also thins out what is taken as recorded.
    Raises TempoError, one sentence, for everything that cannot be answered about.
    """
    if isinstance(video, Source):
        return video
    check_limits(fps, min_frames, max_frames)
    request = _Request(float(fps), int(min_frames), int(max_frames), config or VideoConfig(), sampler)
    if isinstance(video, (str, Path)):
        return _open_path(video, request)
    if isinstance(video, np.ndarray):
        return _open_array(video, "the array", request)
    from PIL import Image

    if isinstance(video, Image.Image):
        return _open_image(video, "the image", request)
    raise TempoError(
        f"A {type(video).__name__} is not a video: give a path, a uint8 array [T, H, W, 3] or a PIL image."
    )


def _open_path(video: str | Path, request: _Request) -> Source:
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
        return _open_image(picture, path.name, request, path)
    return _open_file(path, request)


def _open_file(path: Path, request: _Request) -> Source:
    from tempo_jax.video import decode
    from tempo_jax.video.index import read_index

    index = read_index(path)
    indices = request.sample(index.total_frames, index.fps)
    convert = decode.FrameConverter(decode.first_frame(index, int(indices[0])))
    check_size(convert.height, convert.width, f"The frames of {path.name}")

    def read(source: Source) -> Iterator[np.ndarray]:
        reader = decode.FrameReader(index, *np.unique(indices, return_counts=True))
        yield from reader.pixels(convert)
        for sentence in reader.warnings():
            if sentence not in source.warnings:
                source.warnings.append(sentence)

    return _video(path.name, indices, index.total_frames, index.fps, request, convert, read, index.warnings)


def _video(name, indices, total, native_fps, request, size, read, warnings=()) -> Source:
    """A video Source; `size` has height and width."""
    resize_steps(size.height, size.width, request.config)
    rate = real_fps(len(indices), total, native_fps, request.fps)
    return Source(
        kind="video",
        name=name,
        num_frames=len(indices),
        real_fps=rate,
        duration_seconds=len(indices) / rate,
        height=size.height,
        width=size.width,
        total_frames=total,
        native_fps=native_fps,
        indices=indices,
        warnings=list(warnings),
        _read=read,
    )


@dataclasses.dataclass(frozen=True)
class _Size:
    height: int
    width: int


def _open_array(array: np.ndarray, name: str, request: _Request) -> Source:
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
    indices = request.recorded(len(array))

    def read(source: Source) -> Iterator[np.ndarray]:
        for index in indices:
            yield array[index]

    return _video(name, indices, len(array), request.fps, request, _Size(height, width), read)


def _open_npy(path: Path, request: _Request) -> Source:
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


def _open_folder(folder: Path, request: _Request) -> Source:
    from tempo_jax.video import images

    files = images.listing(folder)
    indices = request.recorded(len(files))
    height, width = images.common_size([files[i] for i in indices])
    check_size(height, width, f"The images in {folder}")

    def read(source: Source) -> Iterator[np.ndarray]:
        for index in indices:
            yield images.load(files[index], (height, width))

    return _video(folder.name, indices, len(files), request.fps, request, _Size(height, width), read)


def _open_image(picture: Any, name: str, request: _Request, path: Path | None = None) -> Source:
    from tempo_jax.video import images

    warnings = []
    if getattr(picture, "n_frames", 1) > 1:
        warnings.append(
            f"{name} holds several pictures, of which only the first is used: make it a .gif or .mp4."
        )
    check_size(picture.height, picture.width, f"The pixels of {name}")
    pixels = images.to_rgb(picture, path or name)
    source = _image(name, picture.height, picture.width, request, pixels)
    source.warnings.extend(warnings)
    return source


def _image(name, height, width, request, pixels) -> Source:
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
        _read=lambda source: (frame for frame in (pixels,)),
    )
