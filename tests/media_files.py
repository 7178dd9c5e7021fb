"""Small media files whose pictures carry their own number, written with PyAV.

Picture k shows the number k as a barcode: 16 columns over the upper half, bit b white in column b. The
lower half has a moving box, so that encoders have something to predict. `tests/media_cases.py` is the
table of files.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np

from tempo_jax.video import containers

os.environ.setdefault("SVT_LOG", "1")  # errors only
BITS = 16
UNREADABLE = -1

# (a, b, c, d) of a display matrix: the stored pixel (x, y) is shown at (a x + c y, b x + d y).
TURNS = {
    "upright": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "flipped": (1, 0, 0, -1),
    "turned_180": (-1, 0, 0, -1),
    "turned_90": (0, 1, -1, 0),
    "turned_270": (0, -1, 1, 0),
    "transposed": (0, 1, 1, 0),
    "transversed": (0, -1, -1, 0),
}

# Options that make each encoder fast and let its files tell their numbers.
ENCODERS = {
    "libx264": {"preset": "veryfast", "sc_threshold": "0", "crf": "26"},
    "libx265": {"preset": "ultrafast", "crf": "26"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "12", "crf": "25", "svtav1-params": "lp=1"},
}
PIXELS = {
    "gif": "rgb8", "png": "rgb24", "apng": "rgb24", "qtrle": "rgb24", "mjpeg": "yuvj420p", "ffv1": "yuv420p",
    "prores_ks": "yuv422p10le", "dnxhd": "yuv422p", "huffyuv": "yuv422p", "libwebp_anim": "bgra",
    "cinepak": "rgb24", "zmbv": "bgr0",
}  # fmt: skip
WHITE, BLACK = 235, 20


def paint(number: int, height: int = 128, width: int = 256) -> np.ndarray:
    """uint8 [height, width, 3]: the picture that shows `number`."""
    picture = np.empty((height, width, 3), np.uint8)
    edges = np.linspace(0, width, BITS + 1).round().astype(int)
    for bit in range(BITS):
        picture[: height // 2, edges[bit] : edges[bit + 1]] = WHITE if number >> bit & 1 else BLACK
    picture[height // 2 :] = np.linspace(60, 160, width, dtype=np.uint8)[None, :, None]
    side = height // 6
    x, y = number * 5 % (width - side), height // 2 + number * 3 % (height // 2 - side)
    picture[y : y + side, x : x + side] = (200, 90, 40)
    return picture


def read_number(picture: np.ndarray) -> int:
    """The number that a decoded picture shows; UNREADABLE where a column is neither dark nor bright."""
    height, width = picture.shape[:2]
    rows = picture[height // 8 : height * 3 // 8].mean(axis=(0, 2))
    columns = [
        rows[int((b + 0.3) * width / BITS) : int((b + 0.7) * width / BITS)].mean() for b in range(BITS)
    ]
    if any(90 < level < 165 for level in columns):
        return UNREADABLE
    return sum(1 << bit for bit, level in enumerate(columns) if level > 127)


def stored(upright: np.ndarray, turn: tuple[int, int, int, int]) -> np.ndarray:
    """The pixels that a display matrix turns into `upright`."""
    a, b, c, d = turn
    return upright[::d, ::a] if a else upright[::b, ::c].swapaxes(0, 1)


def turned(pixels: np.ndarray, turn: tuple[int, int, int, int]) -> np.ndarray:
    """The picture that a display matrix makes of stored pixels."""
    a, b, c, d = turn
    return pixels[::d, ::a] if a else pixels.swapaxes(0, 1)[::b, ::c]


@lru_cache(maxsize=600)
def _pixels(number: int, size: tuple[int, int], turn: tuple[int, int, int, int], pixels: str) -> np.ndarray:
    picture = np.ascontiguousarray(stored(paint(number, *size), turn))
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    return frame.reformat(format=pixels).to_ndarray()


def _frame(number: int, size, turn, pixels: str) -> av.VideoFrame:
    if pixels in ("yuv420p", "yuvj420p"):
        return av.VideoFrame.from_ndarray(_pixels(number, size, turn, pixels), format=pixels)
    picture = np.ascontiguousarray(stored(paint(number, *size), turn))
    return av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)


Packets = list[av.Packet]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A video track. Picture `numbers[i]` is shown at `ticks[i]` times `tick` seconds.

    `size`: (height, width) as shown, pixels taken as square. `change`: what becomes of the encoded packets.
    `filter`: an FFmpeg bitstream filter and its options, after that; `settle`: what becomes of its packets.
    `shift`: ticks that the times in the file are later by.
    """

    ticks: tuple[int, ...] = tuple(range(100))
    tick: Fraction = Fraction(1, 25)
    numbers: tuple[int, ...] | None = None
    codec: str = "libx264"
    size: tuple[int, int] = (128, 256)
    turn: tuple[int, int, int, int] = TURNS["upright"]
    pixels: str | None = None
    options: dict[str, str] = dataclasses.field(default_factory=dict)
    gop: int = 25
    b_frames: int = 0
    rate: Fraction | None = None
    aspect: Fraction | None = None
    default: bool | None = None
    tag: str | None = None
    title: str | None = None
    shift: int = 0
    change: Callable[[Packets], Packets] | None = None
    filter: str | None = None
    settle: Callable[[Packets], Packets] | None = None

    @property
    def seconds(self) -> np.ndarray:
        return np.array([float(t * self.tick) for t in self.ticks])

    def start(self, output: av.container.OutputContainer) -> av.VideoStream:
        options = {
            **ENCODERS.get(self.codec, {}),
            "g": str(self.gop),
            "bf": str(self.b_frames),
            **self.options,
        }
        if self.codec == "libx265":
            inner = ["log-level=none", f"keyint={self.gop}", f"bframes={self.b_frames}", "scenecut=0"]
            options["x265-params"] = ":".join([*inner, *filter(None, [options.pop("x265", "")])])
        if self.codec == "libx264":
            options["keyint_min"] = str(self.gop)
        # The muxer takes the rate for the default duration of a frame.
        stream = output.add_stream(self.codec, rate=self.rate or 1 / self.tick, options=options)
        side = self.size if self.turn[0] else self.size[::-1]
        stream.height, stream.width = side
        stream.pix_fmt = self.pixels or PIXELS.get(self.codec, "yuv420p")
        context = stream.codec_context
        context.time_base = self.tick
        context.thread_count = 1
        if self.aspect:
            context.sample_aspect_ratio = self.aspect
        if self.tag:
            context.codec_tag = self.tag
        if self.title:
            stream.metadata["title"] = self.title
        if self.default is not None:
            none = av.stream.Disposition(0)
            stream.disposition = av.stream.Disposition.default if self.default else none
        return stream

    def packets(self, stream: av.VideoStream) -> Packets:
        numbers = self.numbers or range(len(self.ticks))
        found: Packets = []
        for number, tick in zip(numbers, self.ticks, strict=True):
            frame = _frame(number, self.size, self.turn, stream.pix_fmt)
            frame.pts, frame.time_base = tick + self.shift, self.tick
            found += stream.encode(frame)
        found += stream.encode(None)
        if self.change:
            found = self.change(found)
        if self.filter:
            filtering = av.bitstream.BitStreamFilterContext(self.filter, stream)
            found = [f for p in [*found, None] for f in filtering.filter(p)]
            for packet in found:
                packet.stream, packet.time_base = stream, self.tick
            if self.settle:
                found = self.settle(found)
        return found


@dataclasses.dataclass(frozen=True)
class Sound:
    """A sound track of a quiet tone from `first` to `last` seconds."""

    first: float
    last: float
    codec: str = "pcm_s16le"
    rate: int = 48000

    def start(self, output: av.container.OutputContainer) -> av.AudioStream:
        return output.add_stream(self.codec, rate=self.rate, layout="mono")

    def packets(self, stream: av.AudioStream) -> Packets:
        block, found = 960, []
        wave = (1000 * np.sin(np.arange(block) * 0.1)).astype(np.int16)[None]
        for place in range(int(self.first * self.rate), int(self.last * self.rate), block):
            frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = self.rate, place, Fraction(1, self.rate)
            found += stream.encode(frame)
        return found + stream.encode(None)


class Pipe:
    """A target that cannot be sought in, as of a live stream."""

    def __init__(self, path: Path):
        self._file = path.open("wb")

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def close(self) -> None:
        self._file.close()


def write(
    path: Path,
    tracks: Iterable[Picture | Sound],
    *,
    format: str | None = None,
    options: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
    cover: bytes | None = None,
    live: bool = False,
) -> None:
    """Encode all tracks and mux them in the order of their decoding times."""
    target = Pipe(path) if live else str(path)
    with av.open(target, "w", format=format, options=options or {}) as output:
        output.metadata.update(tags or {})
        streams = [(track, track.start(output)) for track in tracks]
        if cover:
            output.add_attachment("cover.jpg", "image/jpeg", cover)
        packets = [p for track, stream in streams for p in track.packets(stream)]
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            output.mux_one(packet)
    if live:
        target.close()


def decoded(path: Path, stream: int = 0) -> tuple[list[np.ndarray], list[float | None]]:
    """Every picture of a video stream as plain PyAV sees it, and its time on the container's clock."""
    with av.open(str(path), **containers.LENIENT_TAGS) as container:
        begin = (container.start_time or 0) / av.time_base
        pictures, times = [], []
        for packet in container.demux(container.streams.video[stream]):
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                continue
            for frame in frames:
                pictures.append(frame.to_ndarray(format="rgb24"))
                times.append(None if frame.time is None else frame.time - begin)
    return pictures, times
