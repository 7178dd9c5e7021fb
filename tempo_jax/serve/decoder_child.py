"""The process that decodes one file: limited in memory and time; it may crash.

Started by `decoder`, which reads what this writes into a pipe: a JSON header, every sampled frame,
and a JSON trailer; or, at any point instead, a JSON object with "error".
"""

import contextlib
import dataclasses
import json
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from tempo_jax.errors import TempoError
from tempo_jax.models.config import VideoConfig
from tempo_jax.serve.limits import Limits
from tempo_jax.video import Source, containers, decode, images, open_video  # noqa: F401  imported before the fork

JSON, FRAME = b"j", b"f"  # what the next message is
HEADER = (
    *("kind", "num_frames", "real_fps", "duration_seconds", "height", "width"),
    *("total_frames", "native_fps", "start_seconds", "own_times", "shift_seconds"),
)
# Containers that hold their pictures themselves. Playlists and manifests (hls, concat, dash, …) name
# other files, and would let an upload read this machine's.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,ivf,obu,flv,ogg,asf,gif,apng,"
    "mxf,nut,rm,dv,yuv4mpegpipe,wtv,webp_pipe"
)


@dataclasses.dataclass(frozen=True)
class Request:
    """The video to decode: `path` on this machine, `name` in messages, sampled by `frames`.

    sampler: as of `open_video`.
    """

    path: str
    name: str
    frames: dict[str, Any]  # fps, min_frames, max_frames
    config: VideoConfig
    limits: Limits
    sampler: Callable | None = None


def main(pipe: Connection, request: Request) -> None:
    """Decodes and writes; every failure becomes a one-line message, a crash is the reader's to notice."""
    try:
        _bound_process(request.limits)
        check_file(Path(request.path), request.limits)
        source = open_video(request.path, **request.frames, config=request.config, sampler=request.sampler)
        _check_opened(source, request.limits)
        header = {key: getattr(source, key) for key in HEADER}
        arrays = {"indices": source.indices.tolist(), "seconds": source.seconds.tolist()}
        _send_json(pipe, {**header, **arrays, "warnings": source.warnings})
        for frames in source.chunks(1):
            pipe.send_bytes(FRAME)
            pipe.send_bytes(np.ascontiguousarray(frames).data.cast("B"))
        _send_json(pipe, {"warnings": source.warnings})
    except BrokenPipeError:
        return  # the parent has closed the pipe
    except BaseException as error:
        with contextlib.suppress(OSError):
            _send_json(pipe, {"error": _error_message(error, request)})


def _send_json(pipe: Connection, value: dict) -> None:
    pipe.send_bytes(JSON)
    pipe.send_bytes(json.dumps(value, default=float).encode())


def _error_message(error: BaseException, request: Request) -> str:
    """The message for the client, without the file's path on this machine."""
    if isinstance(error, TempoError):
        message = str(error)
        for path in (str(Path(request.path).absolute()), request.path, Path(request.path).name):
            message = message.replace(path, request.name)
        return message
    if isinstance(error, MemoryError):
        return limit_message(request.name, request.limits)
    error_name = type(error).__name__
    return f"{request.name} cannot be decoded ({error_name}): get a complete copy or convert it to H.264."


def limit_message(name: str, limits: Limits) -> str:
    return (
        f"Decoding {name} took more than the {limits.decode_bytes >> 20} MiB of memory allowed, or crashed: "
        "get a complete copy or scale it down."
    )


def _bound_process(limits: Limits) -> None:
    """Memory, processor seconds, no files written, no core dumps."""
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    seconds = max(1, int(limits.decode_seconds))
    bounds = {
        resource.RLIMIT_AS: taken + limits.decode_bytes,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in bounds.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def check_file(path: Path, limits: Limits) -> None:
    """TempoError for a file beyond the limits, judged by its headers alone; folders and .npy pass."""
    if not path.is_file() or path.suffix.lower() == ".npy" or path.stat().st_size == 0:
        return
    Image.MAX_IMAGE_PIXELS = None  # ours is the limit that counts
    picture = images.identify(path)
    if picture is not None:
        _check_pixels(path.name, picture.height, picture.width, limits.image_pixels)
        return
    try:
        container = av.open(
            f"file:{path.absolute()}",
            options={"protocol_whitelist": "file", "format_whitelist": CONTAINERS},
            **containers.LENIENT_TAGS,
        )
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError, OSError) as error:
        raise TempoError(
            f"{path.name} cannot be read as a video or an image, or is damaged: give a complete .mp4, "
            ".mkv, .webm, .gif or image."
        ) from error
    with container:
        seconds = (container.duration or 0) / av.time_base
        if seconds > limits.video_seconds:
            raise TempoError(
                f"{path.name} lasts {seconds:.0f} seconds and this server takes at most "
                f"{limits.video_seconds:.0f}: cut it."
            )
        for stream in container.streams.video:
            if stream.codec_context is not None:
                size = stream.codec_context
                _check_pixels(path.name, size.height, size.width, limits.frame_pixels)


def _check_opened(source: Source, limits: Limits) -> None:
    """Checks the decoded size and duration, since headers may be wrong or incomplete."""
    most = limits.image_pixels if source.kind == "image" else limits.frame_pixels
    _check_pixels(source.name, source.height, source.width, most)
    if source.duration_seconds > limits.video_seconds:
        raise TempoError(
            f"{source.name} lasts {source.duration_seconds:.0f} seconds and this server takes at most "
            f"{limits.video_seconds:.0f}: cut it."
        )


def _check_pixels(name: str, height: int, width: int, most: int) -> None:
    if height * width > most:
        raise TempoError(
            f"{name} has {width}x{height} pixels and this server takes at most {most}: scale it down."
        )
