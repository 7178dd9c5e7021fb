"""Colors: matrices, ranges and bit depths of video come out as the RGB that was encoded."""

from fractions import Fraction

import av
import numpy as np
import pytest

from tempo_jax.video import open_video

# Saturated ones, whose luma tells BT.601 from BT.709.
COLORS = [
    *((200, 30, 30), (30, 200, 30), (30, 30, 200), (220, 220, 40)),
    *((16, 16, 16), (240, 240, 240), (0, 128, 128)),
]
WORST = 6  # levels, after 4:2:0 and quantization; the wrong matrix is off by 20 or more


def bars() -> np.ndarray:
    """uint8 [64, 448, 3]: a bar of each color."""
    return np.repeat(np.repeat(np.array(COLORS, np.uint8)[None], 64, 0), 64, 1)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuv420p10le", "yuvj420p"])
@pytest.mark.parametrize(("matrix", "number"), [("bt709", 1), ("smpte170m", 6)])
def test_colors_come_back(tmp_path, suffix, pixels, matrix, number):
    path, picture = tmp_path / f"bars.{suffix}", bars()
    wide = pixels == "yuvj420p"
    with av.open(str(path), "w") as output:
        full = "on" if wide else "off"
        options = {"x264-params": f"colormatrix={matrix}:fullrange={full}", "crf": "4"}
        stream = output.add_stream("libx264", rate=5, options=options)
        stream.width, stream.height, stream.pix_fmt = picture.shape[1], picture.shape[0], pixels
        for index in range(10):
            frame = av.VideoFrame(stream.width, stream.height, pixels)
            for plane, values in zip(frame.planes, _planes(picture, matrix, wide, pixels), strict=True):
                rows = np.zeros((len(values), plane.line_size), np.uint8)
                rows[:, : values.shape[1] * values.itemsize] = values.view(np.uint8)
                plane.update(rows)
            frame.pts, frame.time_base = index, Fraction(1, 5)
            frame.colorspace, frame.color_range = number, 2 if wide else 1
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    source = open_video(path)
    (first, *_) = (frame for chunk in source.chunks(1) for frame in chunk)
    centers = first[32, 32::64].astype(int)
    assert np.abs(centers - np.array(COLORS)).max() <= WORST, centers.tolist()


def _planes(picture: np.ndarray, matrix: str, wide: bool, pixels: str) -> list[np.ndarray]:
    """The picture as planes of `pixels`, by the standard's own formula (ITU-R BT.601, BT.709)."""
    red, blue = {"bt709": (0.2126, 0.0722), "smpte170m": (0.299, 0.114)}[matrix]
    r, g, b = np.moveaxis(picture.astype(float) / 255, -1, 0)
    y = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    scale = (255, 255, 0) if wide else (219, 224, 16)
    planes = [scale[0] * y + scale[2], scale[1] * u + 128, scale[1] * v + 128]
    depth, kind = (4, np.uint16) if pixels.endswith("10le") else (1, np.uint8)
    y, u, v = (np.clip(np.round(plane * depth), 0, 256 * depth - 1).astype(kind) for plane in planes)
    step = 1 if pixels == "yuv444p" else 2
    return [y, *(np.ascontiguousarray(plane[::step, ::step]) for plane in (u, v))]
